//! The descriptions that layers give for [`Stack::explain`](crate::Stack::explain).
//!
//! A layer's `describe.rs` adds one line of text and any number of facts. A fact is a named number.
//! Its name is a constant in the module of the layer that notes it, or in [`fact`] if several
//! layers note it. A layer adds the warnings that concern only itself. The warnings that concern
//! several layers are in `stack`, which reads the facts.

use std::{fmt, marker::PhantomData, time::Duration};

use crate::sealed::Sealed;

/// A layer that can describe itself without a request. This trait is sealed.
pub trait Describe: Sealed {
    /// Adds the layer's line, facts and warnings.
    fn describe(&self, facts: &mut Facts);
}

impl<L: Sealed> Sealed for Option<L> {}

/// A layer that is absent adds nothing.
impl<L: Describe> Describe for Option<L> {
    fn describe(&self, facts: &mut Facts) {
        if let Some(layer) = self {
            layer.describe(facts);
        }
    }
}

/// The facts that layers of different kinds note.
pub(crate) mod fact {
    use super::Fact;

    /// A call may wait in its future for readiness, without a limit.
    pub(crate) const WAITS_FOR_READINESS: Fact<()> = Fact::new("waits for readiness");
    /// A layer reports `Pending` instead of rejecting while it is full or open.
    pub(crate) const PUSHES_BACK: Fact<()> = Fact::new("pushes back");
    /// The user's own layer is outside the total timeout.
    pub(crate) const OUTSIDE_THE_TOTAL: Fact<()> = Fact::new("outside the total");
    /// A layer is useful only around an HTTP client.
    pub(crate) const NEEDS_HTTP: Fact<()> = Fact::new("needs HTTP");
    /// The transport speaks HTTP.
    pub(crate) const HTTP: Fact<()> = Fact::new("HTTP");
    /// The limits end with the head of an HTTP response.
    pub(crate) const BODY_WITHOUT_LIMIT: Fact<()> = Fact::new("body without limit");
}

/// The name of a fact with a number of type `T`, or of a fact without a number if `T` is `()`.
#[derive(Debug)]
pub(crate) struct Fact<T> {
    name: &'static str,
    value: PhantomData<fn() -> T>,
}

impl<T> Fact<T> {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, value: PhantomData }
    }
}

/// The lines, facts and warnings that the layers of a stack have added.
#[derive(Debug, Default)]
pub struct Facts {
    lines: Vec<String>,
    noted: Vec<(&'static str, Number)>,
    warnings: Vec<Warning>,
}

impl Facts {
    /// Adds the line of a layer.
    pub(crate) fn line(&mut self, layer: &str, text: impl fmt::Display) {
        self.lines.push(format!("  {layer:<16} {text}"));
    }

    /// Notes a number. A second number of the same name does not replace the first one.
    pub(crate) fn put<T: Value>(&mut self, fact: Fact<T>, value: T) {
        self.noted.push((fact.name, value.into_number()));
    }

    /// Notes a fact without a number, or a fact whose number depends on the request.
    pub(crate) fn note<T>(&mut self, fact: Fact<T>) {
        self.noted.push((fact.name, Number::Unknown));
    }

    /// Returns `true` if the fact was noted, with or without a number.
    pub(crate) fn has<T>(&self, fact: Fact<T>) -> bool {
        self.noted.iter().any(|(name, _)| *name == fact.name)
    }

    /// Returns the first number of the fact.
    pub(crate) fn get<T: Value>(&self, fact: Fact<T>) -> Option<T> {
        self.all(fact).next()
    }

    /// Returns all numbers of the fact, in the order in which they were noted.
    pub(crate) fn all<T: Value>(&self, fact: Fact<T>) -> impl Iterator<Item = T> {
        let named = self.noted.iter().filter(move |(name, _)| *name == fact.name);
        named.filter_map(|(_, number)| T::from_number(*number))
    }

    /// Adds a warning, unless there is one of the same rule.
    pub(crate) fn warn(&mut self, rule: &'static str, text: impl Into<String>) {
        if self.warnings.iter().all(|warning| warning.rule != rule) {
            self.warnings.push(Warning::new(rule, text));
        }
    }

    /// Takes the lines and the warnings.
    pub(crate) fn take_texts(&mut self) -> (Vec<String>, Vec<Warning>) {
        (std::mem::take(&mut self.lines), std::mem::take(&mut self.warnings))
    }
}

/// A limit of time, in words. `Duration::MAX` is no limit.
pub(crate) struct UpTo(pub(crate) Duration);

impl fmt::Display for UpTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Duration::MAX => f.write_str("without limit"),
            limit => write!(f, "up to {limit:?}"),
        }
    }
}

/// A warning about settings that contradict each other, or about a missing setting.
///
/// Its text is printed with `Display`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    rule: &'static str,
    text: String,
}

impl Warning {
    pub(crate) fn new(rule: &'static str, text: impl Into<String>) -> Self {
        Self { rule, text: text.into() }
    }

    /// Returns the short, stable name of the rule.
    pub fn rule(&self) -> &'static str {
        self.rule
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    Count(u64),
    Time(Duration),
    Ratio(f64),
    Unknown,
}

/// A type of number that a fact can have.
pub(crate) trait Value: Copy {
    fn into_number(self) -> Number;
    fn from_number(number: Number) -> Option<Self>;
}

macro_rules! values {
    ($($value:ty: $Variant:ident;)+) => {$(
        impl Value for $value {
            fn into_number(self) -> Number {
                Number::$Variant(self)
            }

            fn from_number(number: Number) -> Option<Self> {
                match number {
                    Number::$Variant(value) => Some(value),
                    _ => None,
                }
            }
        }
    )+};
}

values! {
    u64: Count;
    Duration: Time;
    f64: Ratio;
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Fact<Duration> = Fact::new("pause");
    const LIMIT: Fact<u64> = Fact::new("limit");

    #[test]
    fn a_fact_has_all_the_numbers_that_were_noted_and_may_have_none() {
        let mut facts = Facts::default();
        assert!(!facts.has(PAUSE));
        facts.note(PAUSE);
        assert_eq!((facts.has(PAUSE), facts.get(PAUSE), facts.has(LIMIT)), (true, None, false));
        facts.put(LIMIT, 3);
        for millis in [5, 7] {
            facts.put(PAUSE, Duration::from_millis(millis));
        }
        assert_eq!((facts.get(LIMIT), facts.all(PAUSE).count()), (Some(3), 2));
        assert_eq!(facts.get(PAUSE), Some(Duration::from_millis(5)));
    }

    #[test]
    fn a_rule_that_two_layers_break_warns_once() {
        let mut facts = Facts::default();
        facts.warn("zero", "the first");
        facts.warn("zero", "the second");
        facts.warn("other", "another");
        let (_, warnings) = facts.take_texts();
        let texts: Vec<_> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["the first", "another"]);
    }
}
