//! Fingerprints, which show whether two requests with the same key are the same request.

use std::fmt;

use hmac_sha256::{HMAC, Hash};

/// The version of the algorithm. Versions are stored, and their numbers are never reused.
const PLAIN: u8 = 1;
const KEYED: u8 = 2;

/// A fingerprint of a request: the version of the algorithm, and a digest.
///
/// It shows whether two requests with the same key are the same request.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    version: u8,
    digest: [u8; 32],
}

impl Fingerprint {
    /// Creates a fingerprint from the bytes that [`to_bytes`](Self::to_bytes) returned.
    pub fn from_bytes(bytes: [u8; 33]) -> Self {
        let [version, digest @ ..] = bytes;
        Self { version, digest }
    }

    /// Returns the version, followed by the digest.
    pub fn to_bytes(self) -> [u8; 33] {
        let mut bytes = [self.version; 33];
        bytes[1..].copy_from_slice(&self.digest);
        bytes
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({}", self.version)?;
        self.digest[..4].iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
        f.write_str("..)")
    }
}

/// The secrets that key fingerprints, the newest first.
#[derive(Clone, Default)]
pub(crate) struct Secrets(pub(crate) Vec<Box<[u8]>>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only their number, because the settings of a layer are logged.
        write!(f, "Secrets({})", self.0.len())
    }
}

/// The digests of the content of a request, which is added part by part.
///
/// Each part is hashed with its length, so that two different lists of parts are never hashed as
/// the same bytes. There is one digest without a secret, and one for each
/// [secret](super::IdempotencyBuilder::fingerprint_secret). All are computed at once, because a
/// body can be read only once.
#[derive(Clone)]
pub struct Digests {
    plain: Hash,
    keyed: Vec<HMAC>,
}

impl Digests {
    /// Creates digests with these secrets.
    ///
    /// New fingerprints are made with the first secret. A stored fingerprint may have been made
    /// with any of them, or without one.
    pub(crate) fn new(secrets: &[Box<[u8]>]) -> Self {
        let mut digests =
            Self { plain: Hash::new(), keyed: secrets.iter().map(HMAC::new).collect() };
        digests.part(b"buttress fingerprint");
        digests
    }

    /// Adds a part of the request.
    pub fn part(&mut self, part: impl AsRef<[u8]>) {
        let part = part.as_ref();
        let length = (part.len() as u64).to_be_bytes();
        for piece in [&length, part] {
            self.plain.update(piece);
            self.keyed.iter_mut().for_each(|keyed| keyed.update(piece));
        }
    }

    /// Returns the fingerprint to store, and every other that may be stored for this request.
    pub(crate) fn finish(self) -> Fingerprints {
        let plain = Fingerprint { version: PLAIN, digest: self.plain.finalize() };
        let mut keyed = self
            .keyed
            .into_iter()
            .map(|keyed| Fingerprint { version: KEYED, digest: keyed.finalize() });
        match keyed.next() {
            None => Fingerprints { current: plain, former: Vec::new() },
            Some(current) => Fingerprints { current, former: keyed.chain([plain]).collect() },
        }
    }
}

impl fmt::Debug for Digests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Digests").finish_non_exhaustive()
    }
}

/// The fingerprints of one request.
#[derive(Clone, Debug)]
pub(crate) struct Fingerprints {
    pub(crate) current: Fingerprint,
    former: Vec<Fingerprint>,
}

impl Fingerprints {
    /// Returns whether a fingerprint belongs to this request.
    ///
    /// It recognizes a fingerprint even after the secret was set or changed.
    pub(crate) fn has(&self, recorded: Fingerprint) -> bool {
        recorded == self.current || self.former.contains(&recorded)
    }
}
