//! The parts of a layer that read requests and classify their results.

use super::{FindKey, FindScope, RequestKey, ScopeId, StorageKey};
use crate::error::IdempotencyReason;

/// The parts of a layer that know the types of requests and responses.
///
/// They are not in [`Shared`](super::shared::Shared), because an
/// [`IdempotencyHandle`](super::IdempotencyHandle) and the background tasks know only the type of
/// the store.
pub(super) struct Rules<K, C, Q, R, U> {
    pub(super) find_key: K,
    pub(super) find_scope: C,
    pub(super) read: Q,
    pub(super) record: R,
    pub(super) on_unknown: U,
}

/// The operation that a request asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    /// The key that its record is stored under.
    pub(super) key: StorageKey,
    /// The scope that it belongs to.
    pub(super) scope: ScopeId,
    /// `true` if the scope is the only one.
    pub(super) single_tenant: bool,
}

impl<K, C, Q, R, U> Rules<K, C, Q, R, U> {
    /// Finds the operation that a request asks for; `None` if the request is not guarded.
    pub(super) fn identify<Req>(
        &self,
        request: &Req,
    ) -> Result<Option<Operation>, IdempotencyReason>
    where
        K: FindKey<Req>,
        C: FindScope<Req>,
    {
        let key = match self.find_key.find_key(request) {
            Ok(RequestKey::Key(key)) => key,
            Ok(RequestKey::Unguarded) => return Ok(None),
            Ok(RequestKey::Missing) => return Err(IdempotencyReason::KeyMissing),
            Err(_) => return Err(IdempotencyReason::KeyMalformed),
        };
        let scope = self.find_scope.find_scope(request).ok_or(IdempotencyReason::ScopeMissing)?;
        let scope = scope.as_ref();
        let mut parts: Vec<Vec<u8>> = Vec::new();
        self.find_key.operation(request, &mut |part| parts.push(part.to_vec()));
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        Ok(Some(Operation {
            key: StorageKey::of(scope, &parts, &key),
            scope: ScopeId::of(scope),
            single_tenant: self.find_scope.is_single_tenant(),
        }))
    }
}
