//! The Lua scripts, one for each step.

use std::{borrow::Cow, sync::LazyLock};

use redis::{Cmd, Script};

/// A script, and the hash by which the server knows it after the first use.
#[derive(Debug)]
pub(crate) struct Step {
    source: &'static str,
    hash: LazyLock<String>,
}

macro_rules! steps {
    ($($name:ident = $file:literal;)*) => {
        $(pub(crate) static $name: Step = {
            const SOURCE: &str = concat!(include_str!("record.lua"), include_str!($file));
            Step {
                source: SOURCE,
                hash: LazyLock::new(|| Script::new(SOURCE).get_hash().to_owned()),
            }
        };)*
    };
}

steps! {
    ABANDON = "abandon.lua";
    CHECKPOINT = "checkpoint.lua";
    CLAIM = "claim.lua";
    COMPLETE = "complete.lua";
    COUNT = "count.lua";
    DUE = "due.lua";
    MARK_STARTED = "mark_started.lua";
    RELEASE = "release.lua";
    RENEW = "renew.lua";
    RESOLVE = "resolve.lua";
    SWEEP = "sweep.lua";
    UNKNOWN = "unknown.lua";
}

/// One call of a script, with its keys and arguments.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    step: &'static Step,
    keys: Vec<String>,
    arguments: Vec<Cow<'a, [u8]>>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(step: &'static Step, keys: Vec<String>) -> Self {
        Self { step, keys, arguments: Vec::new() }
    }

    pub(crate) fn key(mut self, key: String) -> Self {
        self.keys.push(key);
        self
    }

    pub(crate) fn bytes(mut self, argument: &'a [u8]) -> Self {
        self.arguments.push(Cow::Borrowed(argument));
        self
    }

    pub(crate) fn text(mut self, argument: impl ToString) -> Self {
        self.arguments.push(Cow::Owned(argument.to_string().into_bytes()));
        self
    }

    /// Returns a command with the script's hash, which a restarted server does not know.
    pub(crate) fn by_hash(&self) -> Cmd {
        self.command("EVALSHA", &self.step.hash)
    }

    /// Returns a command with the script's source.
    pub(crate) fn by_source(&self) -> Cmd {
        self.command("EVAL", self.step.source)
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(script).arg(self.keys.len()).arg(&self.keys);
        for argument in &self.arguments {
            command.arg(argument.as_ref());
        }
        command
    }
}
