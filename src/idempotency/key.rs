//! What names an operation: the key that a client gave it, and the key that it is stored under.

use std::fmt;

use hmac_sha256::{HMAC, Hash};

use crate::call::random;

/// The longest key, in bytes.
const MAX_LEN: usize = 255;

/// The key that a client gave an operation: 1 to 255 bytes of printable ASCII.
///
/// The quoted string of RFC 8941 that the IETF's draft asks for and the bare text that others send are
/// one key, if what they say is the same.
///
/// ```
/// use buttress::idempotency::Key;
///
/// assert_eq!(Key::parse("\"8e03978e\"; v=1")?, Key::parse("8e03978e")?);
/// assert!(Key::parse("").is_err());
/// # Ok::<(), buttress::idempotency::InvalidKey>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Box<str>);

/// What was sent as a key cannot be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// There is nothing in it.
    #[error("the key is empty")]
    Empty,
    /// It has more than 255 bytes.
    #[error("the key is longer than 255 bytes")]
    TooLong,
    /// It is not printable ASCII, or its quotes do not match.
    #[error("the key is malformed")]
    Malformed,
    /// There is more than one.
    #[error("there is more than one key")]
    Repeated,
}

impl Key {
    /// A key as it is.
    ///
    /// # Errors
    ///
    /// If it is empty, longer than 255 bytes, or not printable ASCII.
    pub fn new(key: impl Into<String>) -> Result<Self, InvalidKey> {
        let key: String = key.into();
        if key.is_empty() {
            return Err(InvalidKey::Empty);
        }
        if key.len() > MAX_LEN {
            return Err(InvalidKey::TooLong);
        }
        if !key.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(InvalidKey::Malformed);
        }
        Ok(Self(key.into()))
    }

    /// A key as it is sent in a header: a string of RFC 8941, whose parameters are ignored, or bare.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and if a quoted string does not end or is followed by anything but
    /// parameters.
    pub fn parse(sent: &str) -> Result<Self, InvalidKey> {
        let sent = sent.trim_matches([' ', '\t']);
        let Some(quoted) = sent.strip_prefix('"') else {
            // A comma is how two header lines are joined into one.
            return match sent.contains(',') {
                true => Err(InvalidKey::Repeated),
                false => Self::new(sent),
            };
        };
        let mut key = String::new();
        let mut rest = quoted.chars();
        loop {
            match rest.next() {
                Some('"') => break,
                Some('\\') => match rest.next() {
                    Some(escaped @ ('"' | '\\')) => key.push(escaped),
                    _ => return Err(InvalidKey::Malformed),
                },
                Some(plain) => key.push(plain),
                None => return Err(InvalidKey::Malformed),
            }
            if key.len() > MAX_LEN {
                return Err(InvalidKey::TooLong);
            }
        }
        let rest = rest.as_str().trim_start_matches([' ', '\t']);
        match rest.bytes().next() {
            Some(b';') if is_list(rest) => Err(InvalidKey::Repeated),
            None | Some(b';') => Self::new(key),
            Some(b',') => Err(InvalidKey::Repeated),
            Some(_) => Err(InvalidKey::Malformed),
        }
    }

    /// The key as text, without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether another item comes after these parameters, in which a quoted comma is none.
fn is_list(parameters: &str) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    parameters.bytes().any(|byte| {
        let literal = std::mem::take(&mut escaped);
        match byte {
            _ if literal => {}
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b',' => return !quoted,
            _ => {}
        }
        false
    })
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whose keys they are: a tenant, hashed. Two tenants never share a record, whatever keys they choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScopeId([u8; 16]);

impl ScopeId {
    /// The scope with this name.
    pub fn of(scope: &[u8]) -> Self {
        let digest = digest(b"buttress scope 1", &[scope]);
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }

    /// The scope as bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// What a record is stored under: SHA-256 over the scope, the operation and the key. It is as long
/// whatever a client sends, and no client can aim it at the record of another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StorageKey([u8; 32]);

impl StorageKey {
    /// Of a key for an operation, such as a method and a route, in a scope.
    pub fn of(scope: &[u8], operation: &[&[u8]], key: &Key) -> Self {
        let mut parts = vec![scope];
        parts.extend(operation);
        parts.push(key.as_str().as_bytes());
        Self(digest(b"buttress key 1", &parts))
    }

    /// From what [`as_bytes`](Self::as_bytes) gave.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key as bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A key for a step of the operation, of which only this operation has the parent: HMAC-SHA-256 over
    /// the step, as 64 hexadecimal digits. The same in every run of the operation.
    pub fn child(&self, step: &str) -> Key {
        let mac = HMAC::mac(step.as_bytes(), self.0);
        Key(Self(mac).to_string().into())
    }
}

impl fmt::Display for StorageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StorageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StorageKey({self})")
    }
}

/// Who makes a claim: a new random token for each, so that a claim that is sent twice is known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner([u8; 16]);

impl Owner {
    /// A new token.
    pub fn random() -> Self {
        Self(random::token())
    }

    /// From what [`as_bytes`](Self::as_bytes) gave.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The token as bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// SHA-256 over parts, each with its length before it: no two lists of parts are the same bytes.
fn digest(version: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Hash::new();
    for part in [version].iter().chain(parts) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize()
}
