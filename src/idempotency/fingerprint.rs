//! What tells whether two requests with one key are the same request.

use std::fmt;

use hmac_sha256::{HMAC, Hash};

/// How a fingerprint is computed. The numbers are stored, and are not used again.
const PLAIN: u8 = 1;
const KEYED: u8 = 2;

/// What tells whether two requests with one key are the same request: the version of the algorithm, and
/// a digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    version: u8,
    digest: [u8; 32],
}

impl Fingerprint {
    /// From what [`to_bytes`](Self::to_bytes) gave.
    pub fn from_bytes(bytes: [u8; 33]) -> Self {
        let [version, digest @ ..] = bytes;
        Self { version, digest }
    }

    /// The version, and then the digest.
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

/// What makes fingerprints keyed; the newest is the first.
#[derive(Clone, Default)]
pub(crate) struct Secrets(pub(crate) Vec<Box<[u8]>>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // How many there are: the settings of a guard are logged.
        write!(f, "Secrets({})", self.0.len())
    }
}

/// What a request consists of, digested part by part.
///
/// Each part goes in with its length, so that no two requests are the same bytes. All digests that a
/// stored fingerprint may have been made with are computed at once, since a body can be read only once.
#[derive(Clone)]
pub struct Digests {
    plain: Hash,
    keyed: Vec<HMAC>,
}

impl Digests {
    /// With secrets, of which the first makes new fingerprints and all may have made stored ones.
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

    /// Every fingerprint that this request may be stored with; the first is the one to store.
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
    /// Whether a fingerprint is of this request, also if it was made before the secret was set or changed.
    pub(crate) fn has(&self, recorded: Fingerprint) -> bool {
        recorded == self.current || self.former.contains(&recorded)
    }
}
