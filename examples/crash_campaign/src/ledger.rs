//! The ledger of the workers' charges.
//!
//! It does not depend on the idempotency layer or its store, so it shows how often a request was
//! really executed.
//!
//! A charge is one line: key, fence, worker, the id of the charge, and a checksum of these. It is
//! written by a single `write` in append mode and flushed to the disk, so it survives if the
//! worker is killed right afterwards.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// A line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Charge {
    pub(crate) key: String,
    /// `None` if the line is torn. It still counts as a charge.
    pub(crate) said: Option<Said>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) fence: u64,
    /// The id of the charge, which is the response to the caller.
    ///
    /// It differs in each execution, so a second execution contradicts the first.
    pub(crate) id: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
}

impl Ledger {
    pub(crate) fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Writes a charge. It is on the disk when this returns.
    pub(crate) fn charge(&self, key: &str, fence: u64, worker: &str, id: &str) -> io::Result<()> {
        let line = format!("{key} {fence} {worker} {id}");
        let sum = checksum(&line);
        let mut file = append(&self.path)?;
        // The leading line break ends a line that a killed worker may have left half written.
        file.write_all(format!("\n{line} {sum:016x}\n").as_bytes())?;
        file.sync_data()
    }

    /// Returns all charges, in the order in which they were made.
    pub(crate) fn read(&self) -> io::Result<Vec<Charge>> {
        match std::fs::read(&self.path) {
            Ok(bytes) => Ok(parse(&String::from_utf8_lossy(&bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

pub(crate) fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn parse(text: &str) -> Vec<Charge> {
    let lines = text.split('\n').filter(|line| !line.is_empty());
    lines
        .map(|line| {
            // A torn line counts as a charge of the key at its start, even if that key is torn.
            let key = line.split(' ').next().unwrap_or_default().to_owned();
            Charge { key, said: parse_line(line) }
        })
        .collect()
}

fn parse_line(line: &str) -> Option<Said> {
    let (said, sum) = line.rsplit_once(' ')?;
    if sum.len() != 16 || u64::from_str_radix(sum, 16).ok()? != checksum(said) {
        return None;
    }
    let mut fields = said.split(' ');
    let (_, fence, _, id) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    Some(Said { fence: fence.parse().ok()?, id: id.to_owned() })
}

/// Computes FNV-1a, which is enough to tell a whole line from a torn one.
fn checksum(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wherever_a_line_is_torn_it_is_a_charge_and_the_next_one_is_whole() {
        let line = "key-7 12 w1.99 c-1";
        let whole = format!("\n{line} {:016x}\n", checksum(line));
        for end in 2..whole.len() - 1 {
            let charges = parse(&format!("{}{whole}", &whole[..end]));
            assert_eq!(charges.len(), 2, "torn after {end} bytes");
            assert_eq!(charges[0].said, None, "torn after {end} bytes");
            assert_eq!(charges[1].key, "key-7");
            let said = Said { fence: 12, id: "c-1".to_owned() };
            assert_eq!(charges[1].said, Some(said));
        }
    }
}
