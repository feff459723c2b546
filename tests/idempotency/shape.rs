//! What a guarded service is as a service.

use buttress::{
    idempotency::{
        Found, Guard, IdempotencyBuilder, IdempotencyLayer, Key, Quarantine, RecordClones,
        ResponseFuture, SingleTenant, store::MemoryStore,
    },
    testing::{
        Flaky, Step, assert_future, assert_service,
        contract::Contract,
        task::SpawnedService,
    },
};
use tower::{Layer, Service};

use super::support::{Asks, Failure, Guarded, Worker};

const fn shared<T: Send + Sync + Clone + std::fmt::Debug + 'static>() {}

#[test]
fn it_moves_and_is_shared_between_threads() {
    type Inner = Flaky<u64, Failure>;
    shared::<Guard<MemoryStore<u64>>>();
    assert_service::<<IdempotencyLayer<MemoryStore<u64>, Asks, SingleTenant, Asks, RecordClones, Quarantine> as Layer<Inner>>::Service>();
    assert_future::<ResponseFuture<u64, Failure>>();
    const fn send<T: Send + Sync>() {}
    send::<IdempotencyBuilder<MemoryStore<u64>, Asks, SingleTenant, Asks, RecordClones>>();
    send::<<Guarded as Layer<Worker>>::Service>();
}
