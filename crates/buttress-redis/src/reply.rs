//! Replies of scripts. A reply is a word, followed by the values that belong to it.

use std::{time::Duration, vec};

use buttress::idempotency::{
    ClaimOutcome, Fingerprint, Previous, StepOutcome, StoreError, UnknownOperation,
};
use redis::{RedisError, ServerError, Value};

const GARBLED_RECORD: StoreError = StoreError::Garbled("an invalid record");
const GARBLED_REPLY: StoreError = StoreError::Garbled("a reply of another type");

/// A reply, read from the front.
#[derive(Debug)]
pub(crate) struct Reply {
    word: Vec<u8>,
    rest: vec::IntoIter<Value>,
}

impl Reply {
    pub(crate) fn new(value: Value) -> Result<Self, StoreError> {
        let mut rest = match value {
            Value::Array(parts) => parts.into_iter(),
            Value::ServerError(error) => return Err(refused(error)),
            _ => return Err(GARBLED_REPLY),
        };
        let Some(Value::BulkString(word)) = rest.next() else { return Err(GARBLED_REPLY) };
        let mut reply = Self { word, rest };
        match &*reply.word {
            b"garbled" => Err(GARBLED_RECORD),
            b"newer" => Err(StoreError::Newer(reply.number()?)),
            _ => Ok(reply),
        }
    }

    fn bytes(&mut self) -> Result<Vec<u8>, StoreError> {
        match self.rest.next() {
            Some(Value::BulkString(bytes)) => Ok(bytes),
            _ => Err(GARBLED_REPLY),
        }
    }

    fn text(&mut self) -> Result<String, StoreError> {
        String::from_utf8(self.bytes()?).map_err(|_| GARBLED_REPLY)
    }

    fn number<N: std::str::FromStr>(&mut self) -> Result<N, StoreError> {
        self.text()?.parse().map_err(|_| GARBLED_REPLY)
    }

    fn time(&mut self) -> Result<Duration, StoreError> {
        self.number().map(Duration::from_micros)
    }

    pub(crate) fn answer(mut self) -> Result<ClaimOutcome<Vec<u8>>, StoreError> {
        Ok(match &*self.word {
            b"claimed" => {
                ClaimOutcome::Claimed { fence: self.number()?, previous: self.previous()? }
            }
            b"in flight" => {
                ClaimOutcome::InFlight { since: self.time()?, lease_left: self.time()? }
            }
            b"replay" => ClaimOutcome::Replay(self.bytes()?),
            b"not replayable" => ClaimOutcome::NotReplayable,
            b"mismatch" => {
                let bytes = self.bytes()?.try_into().map_err(|_| GARBLED_REPLY)?;
                ClaimOutcome::Mismatch { recorded: Fingerprint::from_bytes(bytes) }
            }
            b"unknown" => ClaimOutcome::Unknown { fence: self.number()?, since: self.time()? },
            _ => return Err(GARBLED_REPLY),
        })
    }

    fn previous(&mut self) -> Result<Option<Previous>, StoreError> {
        if self.rest.len() == 0 {
            return Ok(None);
        }
        let fence = self.number()?;
        let checkpoint = match self.rest.next() {
            Some(Value::BulkString(checkpoint)) => Some(checkpoint),
            None | Some(Value::Nil) => None,
            Some(_) => return Err(GARBLED_REPLY),
        };
        Ok(Some(Previous::new(fence, checkpoint)))
    }

    pub(crate) fn written(self) -> Result<StepOutcome, StoreError> {
        written(&self.word)
    }

    /// Returns the outcome for each lease, in the order of the call.
    pub(crate) fn renewed(self) -> Result<Vec<StepOutcome>, StoreError> {
        self.list(b"renewed", |part| match part {
            Value::BulkString(word) => written(&word),
            _ => Err(GARBLED_REPLY),
        })
    }

    pub(crate) fn counted(mut self) -> Result<u64, StoreError> {
        match &*self.word {
            b"counted" => self.number(),
            _ => Err(GARBLED_REPLY),
        }
    }

    pub(crate) fn listed(self) -> Result<Vec<UnknownOperation>, StoreError> {
        self.list(b"listed", |part| {
            // The key takes the place of the word.
            let mut operation = Reply::new(part)?;
            let key = crate::keys::key_of(&operation.word).ok_or(GARBLED_REPLY)?;
            Ok(UnknownOperation::new(key, operation.number()?, operation.time()?))
        })
    }

    fn list<T>(
        self,
        word: &[u8],
        part: impl Fn(Value) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        if self.word != word {
            return Err(GARBLED_REPLY);
        }
        self.rest.map(part).collect()
    }
}

fn written(word: &[u8]) -> Result<StepOutcome, StoreError> {
    match word {
        b"applied" => Ok(StepOutcome::Applied),
        b"stale" => Ok(StepOutcome::Stale),
        _ => Err(GARBLED_REPLY),
    }
}

/// Converts an error that the server returned for a script.
///
/// Before Redis 7, an error within a script has its code in the text.
fn refused(error: ServerError) -> StoreError {
    let says = |code: &str| {
        error.code() == code || error.details().is_some_and(|details| details.contains(code))
    };
    if says("OOM") {
        StoreError::Full
    } else if says("WRONGTYPE") {
        GARBLED_RECORD
    } else {
        StoreError::unavailable(RedisError::from(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn nonsense_is_garbled() {
        let nonsense = [
            Value::Nil,
            Value::Okay,
            Value::Int(1),
            bulk("claimed"),
            Value::Array(Vec::new()),
            Value::Array(vec![Value::Nil]),
            Value::Array(vec![bulk("claimed")]),
            Value::Array(vec![bulk("claimed"), Value::Int(7)]),
            Value::Array(vec![bulk("claimed"), bulk("-7")]),
            Value::Array(vec![bulk("claimed"), bulk("7"), bulk("x")]),
            Value::Array(vec![bulk("claimed"), bulk("7"), bulk("6"), Value::Int(1)]),
            Value::Array(vec![bulk("in flight"), bulk("1")]),
            Value::Array(vec![bulk("replay")]),
            Value::Array(vec![bulk("mismatch"), bulk("short")]),
            Value::Array(vec![bulk("unknown"), bulk("1.5"), bulk("1")]),
            Value::Array(vec![bulk("newer"), bulk("65536")]),
            Value::Array(vec![bulk("applied")]),
            Value::Array(vec![bulk("hello")]),
        ];
        for value in nonsense {
            let shown = format!("{value:?}");
            let answer = Reply::new(value).and_then(Reply::answer);
            assert!(matches!(answer, Err(StoreError::Garbled(_))), "{shown}: {answer:?}");
        }
    }

    #[test]
    fn nonsense_in_a_list_is_garbled() {
        let listed = |operation| Reply::new(Value::Array(vec![bulk("listed"), operation]));
        let short = Value::Array(vec![bulk("ab"), bulk("1"), bulk("1")]);
        for operation in [Value::Nil, bulk("x"), short] {
            let list = listed(operation).and_then(Reply::listed);
            assert!(matches!(list, Err(StoreError::Garbled(_))), "{list:?}");
        }
        let renewed = Reply::new(Value::Array(vec![bulk("renewed"), bulk("perhaps")]));
        let renewed = renewed.and_then(Reply::renewed);
        assert!(matches!(renewed, Err(StoreError::Garbled(_))), "{renewed:?}");
    }
}
