//! The keys of an operation: the key that a client sends, and the key of the record in a store.

use std::fmt;

use hmac_sha256::{HMAC, Hash};

use crate::call::random;

/// The maximum length of a key, in bytes.
const MAX_LEN: usize = 255;

/// The key that a client sends for an operation: 1 to 255 bytes of printable ASCII.
///
/// The IETF draft requires a quoted string of RFC 8941, but some clients send bare text. A quoted
/// key and a bare key with the same content are equal.
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

/// The error returned when a key is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// The key is empty.
    #[error("the key is empty")]
    Empty,
    /// The key is longer than 255 bytes.
    #[error("the key is longer than 255 bytes")]
    TooLong,
    /// The key is not printable ASCII, or its quotes or escapes are invalid.
    #[error("the key is malformed")]
    Malformed,
    /// There is more than one key.
    #[error("there is more than one key")]
    Repeated,
}

impl Key {
    /// Creates a key from its plain text, without parsing quotes.
    ///
    /// # Errors
    ///
    /// Returns an [`InvalidKey`] if the key is empty, longer than 255 bytes, or not printable
    /// ASCII.
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

    /// Parses the value of a header: a quoted string of RFC 8941, or bare text.
    ///
    /// Parameters after a quoted string are ignored. Bare text must not contain a comma, which
    /// separates two keys.
    ///
    /// # Errors
    ///
    /// Returns an [`InvalidKey`] if [`new`](Self::new) would, if a quoted string does not end or
    /// has an invalid escape, if anything but parameters follows it, or if there is more than one
    /// key.
    pub fn parse(sent: &str) -> Result<Self, InvalidKey> {
        let sent = sent.trim_matches([' ', '\t']);
        let Some(quoted) = sent.strip_prefix('"') else {
            // A comma joins the values of two header lines.
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

    /// Returns the key as text, without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns whether another key follows these parameters.
///
/// A comma in quotes does not separate keys.
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

/// The hash of the name of a scope, such as a tenant.
///
/// Two scopes never share a record, whatever keys their clients choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScopeId([u8; 16]);

impl ScopeId {
    /// Hashes the name of a scope.
    pub fn of(scope: &[u8]) -> Self {
        let digest = digest(b"buttress scope 1", &[scope]);
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }

    /// Returns the hash as bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// The key of a record in the store: SHA-256 over the scope, the operation and the client's key.
///
/// It always has 32 bytes, whatever a client sends. No client can choose a key that leads to the
/// record of another scope.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StorageKey([u8; 32]);

impl StorageKey {
    /// Computes the storage key of a client's key for an operation in a scope.
    ///
    /// `scope` is the name of the scope. `operation` is the list of parts that
    /// [`FindKey::operation`](super::FindKey::operation) adds, such as a method and a route.
    pub fn of(scope: &[u8], operation: &[&[u8]], key: &Key) -> Self {
        let mut parts = vec![scope];
        parts.extend(operation);
        parts.push(key.as_str().as_bytes());
        Self(digest(b"buttress key 1", &parts))
    }

    /// Creates a storage key from the bytes that [`as_bytes`](Self::as_bytes) returned.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the storage key as bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Derives a key for one part of the operation, as 64 hexadecimal digits.
    ///
    /// It is the HMAC-SHA-256 of `step`, the name of that part, keyed by this storage key. It is
    /// the same in every run of the operation. It cannot be computed without the storage key.
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

/// The owner of a claim: a random token, new for each claim.
///
/// A store recognizes a repeated claim by its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner([u8; 16]);

impl Owner {
    /// Creates a new random token.
    pub fn random() -> Self {
        Self(random::token())
    }

    /// Creates an owner from the bytes that [`as_bytes`](Self::as_bytes) returned.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the token as bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// Computes SHA-256 over parts, each preceded by its length.
///
/// Because of the lengths, two different lists of parts are never hashed as the same bytes.
fn digest(version: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Hash::new();
    for part in [version].iter().chain(parts) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize()
}
