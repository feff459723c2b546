//! The store in Redis, against servers that the tests start.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use buttress::{
    idempotency::{
        Claim, ClaimMode, ClaimOutcome, Completed, Hold, Key, OnUnknown, Owner, Resolution,
        ScopeId, StepOutcome, StorageKey, Store, StoreError,
    },
    testing::idempotency::{Fixture, check},
};
use buttress_redis::{RedisSetupError, RedisStore};
use futures::FutureExt;
use redis::FromRedisValue;
use test_servers::RedisServer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const LONG: Duration = Duration::from_secs(600);
const RETENTION: Duration = Duration::from_secs(3_600);

fn server() -> RedisServer {
    RedisServer::start(&[]).expect("a server")
}

async fn store_on(server: &RedisServer) -> RedisStore {
    RedisStore::builder(server.url()).build().await.expect("a store")
}

/// A connection to the server itself, past the store.
struct Raw(redis::Connection);

impl Raw {
    fn of(server: &RedisServer) -> Self {
        let client = redis::Client::open(server.url()).expect("an address");
        Self(client.get_connection().expect("a connection"))
    }

    fn ask<T: FromRedisValue>(&mut self, words: impl IntoIterator<Item = impl ToString>) -> T {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(word.to_string());
        }
        command.query(&mut self.0).expect("an answer")
    }

    /// Returns all fields under a key that holds a hash.
    fn hash(&mut self, key: &str) -> BTreeMap<String, Vec<u8>> {
        self.ask(["HGETALL", key])
    }

    fn keys(&mut self) -> Vec<String> {
        self.ask(["KEYS", "*"])
    }
}

fn record_of(key: &StorageKey) -> String {
    format!("buttress:{{{:02x}}}:r:{key}", key.as_bytes()[0])
}

fn shared_of(key: &StorageKey, name: &str) -> String {
    format!("buttress:{{{:02x}}}:{name}", key.as_bytes()[0])
}

fn new_key() -> StorageKey {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    StorageKey::of(b"", &[], &Key::new(format!("key {count}")).expect("a key"))
}

fn claim_of(key: StorageKey) -> Claim {
    let fingerprint = buttress::idempotency::Fingerprint::from_bytes([7; 33]);
    let mut claim = Claim::new(key, ScopeId::of(b""), Owner::random(), fingerprint);
    claim.lease = LONG;
    claim.unknown_for = RETENTION;
    claim
}

fn reserved(key: StorageKey) -> Claim {
    let mut claim = claim_of(key);
    claim.mode = ClaimMode::Reserved;
    claim
}

async fn granted(store: &RedisStore, claim: &Claim) -> Hold {
    match store.claim(claim).await.expect("an answer") {
        ClaimOutcome::Claimed { fence, .. } => Hold::new(claim.key, claim.owner, fence),
        other => panic!("{other:?} in place of a grant"),
    }
}

async fn complete(store: &RedisStore, hold: &Hold) -> Result<StepOutcome, StoreError> {
    store.complete(hold, Completed::replayable(b"done".to_vec(), 4), LONG).await
}

/// Returns the error of every step on one key, by name, except the steps on many keys.
async fn each_step(store: &RedisStore, hold: &Hold) -> Vec<(&'static str, StoreError)> {
    let mut errors = Vec::new();
    macro_rules! fails {
        ($name:literal, $step:expr) => {
            match $step.await {
                Ok(answer) => panic!("{} answered {answer:?}", $name),
                Err(error) => errors.push(($name, error)),
            }
        };
    }
    let never = || Resolution::Never;
    let again = claim_of(hold.key);
    fails!("claim", store.claim(&again));
    fails!("mark_started", store.mark_started(hold));
    fails!("checkpoint", store.checkpoint(hold, b"half".to_vec()));
    fails!("complete", complete(store, hold));
    fails!("release", store.release(&hold.key, &hold.owner, LONG));
    fails!("abandon", store.abandon(hold, LONG));
    fails!("resolve", store.resolve(&hold.key, hold.fence, never()));
    errors
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_what_every_store_does() {
    struct OnRedis(RedisServer, AtomicU32);

    impl Fixture for OnRedis {
        type Store = RedisStore;

        async fn fresh(&self) -> RedisStore {
            let prefix = format!("store {}:", self.1.fetch_add(1, Ordering::Relaxed));
            RedisStore::builder(self.0.url()).prefix(prefix).build().await.expect("a store")
        }

        fn payload(&self, bytes: Vec<u8>) -> Vec<u8> {
            bytes
        }

        fn bytes(&self, payload: &Vec<u8>) -> Vec<u8> {
            payload.clone()
        }
    }

    check(&OnRedis(server(), AtomicU32::new(0))).await.assert();
}

#[tokio::test]
async fn what_was_acknowledged_survives_that_the_server_is_killed() {
    let mut server = server();
    let store = store_on(&server).await;
    let in_flight = granted(&store, &claim_of(new_key())).await;
    let done = granted(&store, &claim_of(new_key())).await;
    assert_eq!(complete(&store, &done).await.expect("complete"), StepOutcome::Applied);
    let lost = granted(&store, &claim_of(new_key())).await;
    assert_eq!(store.abandon(&lost, LONG).await.expect("abandon"), StepOutcome::Applied);
    let marked = granted(&store, &reserved(new_key())).await;
    assert_eq!(store.mark_started(&marked).await.expect("mark"), StepOutcome::Applied);
    assert_eq!(
        store.checkpoint(&marked, b"half".to_vec()).await.expect("kept"),
        StepOutcome::Applied
    );

    server.kill().expect("kill");
    let begun = Instant::now();
    for _ in 0..3 {
        let down = store.claim(&claim_of(new_key())).await;
        assert!(matches!(down, Err(StoreError::Unavailable(_))), "{down:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "a refused connection is known at once");
    server.restart().expect("restart");

    // The same store works at once: no caller must notice the restart and build another.
    let look = async |hold: &Hold| store.claim(&claim_of(hold.key)).await.expect("an answer");
    assert!(matches!(look(&in_flight).await, ClaimOutcome::InFlight { .. }));
    assert_eq!(look(&done).await, ClaimOutcome::Replay(b"done".to_vec()));
    assert!(
        matches!(look(&lost).await, ClaimOutcome::Unknown { fence, .. } if fence == lost.fence),
        "an unknown operation is still unknown"
    );
    assert_eq!(complete(&store, &in_flight).await.expect("complete"), StepOutcome::Applied);
    assert_eq!(store.count_unknown().await.expect("a count"), 1);
    assert_eq!(store.abandon(&marked, LONG).await.expect("abandon"), StepOutcome::Applied);
    let mut heir = claim_of(marked.key);
    heir.on_unknown = OnUnknown::TakeOver;
    match store.claim(&heir).await.expect("an answer") {
        ClaimOutcome::Claimed { fence, previous: Some(previous) } => {
            assert!(fence > marked.fence);
            assert_eq!(previous.checkpoint.as_deref(), Some(&b"half"[..]));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_that_stalls_is_unavailable_in_time_and_used_again_when_it_goes_on() {
    let server = server();
    let timeout = Duration::from_millis(100);
    let store = RedisStore::builder(server.url())
        .response_timeout(timeout)
        .connect_timeout(timeout)
        .build()
        .await
        .expect("a store");
    server.pause().expect("pause");
    let begun = Instant::now();
    let crowd: Vec<_> = (0..20)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.claim(&claim_of(new_key())).await })
        })
        .collect();
    for claim in crowd {
        let stalled = claim.await.expect("a task");
        assert!(matches!(stalled, Err(StoreError::Unavailable(_))), "{stalled:?}");
    }
    // The first connection was discarded, so this step must connect again.
    let stalled = store.claim(&claim_of(new_key())).await;
    assert!(matches!(stalled, Err(StoreError::Unavailable(_))), "{stalled:?}");
    assert!(begun.elapsed() < 20 * timeout, "it took {:?}", begun.elapsed());

    server.resume().expect("resume");
    granted(&store, &claim_of(new_key())).await;
}

#[tokio::test]
async fn a_server_that_has_forgotten_the_scripts_is_told_them_again() {
    let server = server();
    let store = store_on(&server).await;
    let hold = granted(&store, &claim_of(new_key())).await;
    let mut raw = Raw::of(&server);
    raw.ask::<()>(["SCRIPT", "FLUSH"]);
    assert_eq!(complete(&store, &hold).await.expect("complete"), StepOutcome::Applied);
    raw.ask::<()>(["SCRIPT", "FLUSH"]);
    assert_eq!(store.count_unknown().await.expect("a count"), 0);
    let holds = [granted(&store, &claim_of(new_key())).await, hold];
    raw.ask::<()>(["SCRIPT", "FLUSH"]);
    let renewed = store.renew(&holds, LONG).await.expect("renew");
    assert_eq!(renewed, [StepOutcome::Applied, StepOutcome::Stale]);
}

#[tokio::test]
async fn a_server_that_may_forget_is_refused_unless_that_is_accepted() {
    let forgetful = [
        ("appendonly", "no", "yes"),
        ("appendfsync", "everysec", "always"),
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
    ];
    for (name, is, must) in forgetful {
        let server = RedisServer::start(&[(name, is)]).expect("a server");
        let error = RedisStore::builder(server.url()).build().await.expect_err(name);
        match &error {
            RedisSetupError::Forgetful { setting, found, needed } => {
                assert_eq!((*setting, found.as_str(), *needed), (name, is, must));
            }
            other => panic!("{other}"),
        }
        let said = error.to_string();
        for word in [name, is, must, "accept_loss"] {
            assert!(said.contains(word), "{said:?} does not say {word:?}");
        }
        let store = RedisStore::builder(server.url()).accept_loss().build().await.expect(name);
        granted(&store, &claim_of(new_key())).await;
    }
}

#[tokio::test]
async fn a_server_that_hides_its_settings_is_refused_unless_that_is_accepted() {
    let server = server();
    Raw::of(&server)
        .ask::<()>(["ACL", "SETUSER", "guest", "on", ">secret", "~*", "+@all", "-config"]);
    let url = server.url().replace("redis://", "redis://guest:secret@");
    let error = RedisStore::builder(&url).build().await.expect_err("hidden settings");
    assert!(matches!(error, RedisSetupError::Unchecked(_)), "{error:?}");
    assert!(error.to_string().contains("CONFIG GET"), "{error}");
    let builder = RedisStore::builder(&url).accept_loss();
    assert!(!format!("{builder:?}").contains("secret"));
    let store = builder.build().await.expect("a store");
    assert!(!format!("{store:?}").contains("secret"));
    granted(&store, &claim_of(new_key())).await;
}

#[tokio::test]
async fn a_store_that_cannot_work_is_not_built() {
    let mut server = server();
    let builder = || RedisStore::builder(server.url());
    for (knob, builder) in [
        ("prefix", builder().prefix("a{b}")),
        ("connect_timeout", builder().connect_timeout(Duration::ZERO)),
        ("response_timeout", builder().response_timeout(Duration::ZERO)),
    ] {
        match builder.build().await {
            Err(RedisSetupError::Config(error)) => assert_eq!(error.knob(), knob),
            other => panic!("{knob}: {other:?}"),
        }
    }
    let url = RedisStore::builder("http://127.0.0.1/").build().await;
    let Err(url @ RedisSetupError::Url(_)) = url else { panic!("{url:?}") };
    assert!(url.to_string().starts_with("the address of the server is invalid: "), "{url}");
    let builders = [builder(), builder().accept_loss()];
    server.kill().expect("kill");
    for builder in builders {
        let down = builder.build().await;
        let Err(down @ RedisSetupError::Unavailable(_)) = down else { panic!("{down:?}") };
        assert!(down.to_string().to_lowercase().contains("connection refused"), "{down}");
    }
}

#[tokio::test]
async fn a_request_takes_one_script_to_claim_and_one_to_complete() {
    let server = server();
    let store = store_on(&server).await;
    let mut raw = Raw::of(&server);
    let warm = granted(&store, &reserved(new_key())).await;
    assert_eq!(store.mark_started(&warm).await.expect("mark"), StepOutcome::Applied);
    assert_eq!(complete(&store, &warm).await.expect("complete"), StepOutcome::Applied);
    assert_eq!(store.renew(&[warm], LONG).await.expect("renew"), [StepOutcome::Stale]);
    let mut scripts = || -> (u64, u64) {
        let stats: String = raw.ask(["INFO", "commandstats"]);
        raw.ask::<()>(["CONFIG", "RESETSTAT"]);
        let calls = |command: &str| {
            let line = stats.lines().find_map(|line| line.strip_prefix(command));
            let calls = line.and_then(|line| line.strip_prefix(":calls="));
            let calls = calls.and_then(|calls| calls.split(',').next());
            calls.map_or(0, |calls| calls.parse().expect("a number"))
        };
        (calls("cmdstat_evalsha"), calls("cmdstat_eval"))
    };
    scripts();
    let hold = granted(&store, &claim_of(new_key())).await;
    assert_eq!(complete(&store, &hold).await.expect("complete"), StepOutcome::Applied);
    assert_eq!(scripts(), (2, 0));
    let hold = granted(&store, &reserved(new_key())).await;
    assert_eq!(store.mark_started(&hold).await.expect("mark"), StepOutcome::Applied);
    assert_eq!(complete(&store, &hold).await.expect("complete"), StepOutcome::Applied);
    assert_eq!(scripts(), (3, 0));

    let in_shard = |shard: u8, n: u8| {
        StorageKey::from_bytes(
            [[shard; 31].as_slice(), &[n]].concat().try_into().expect("32 bytes"),
        )
    };
    let mut holds = Vec::new();
    for (shard, n) in [(1, 1), (2, 1), (1, 2), (1, 3)] {
        holds.push(granted(&store, &claim_of(in_shard(shard, n))).await);
    }
    scripts();
    assert_eq!(store.renew(&holds, LONG).await.expect("renew"), [StepOutcome::Applied; 4]);
    assert_eq!(scripts(), (2, 0), "one for each of two shards");
    assert_eq!(store.renew(&[], LONG).await.expect("renew"), []);
    assert_eq!(scripts(), (0, 0));
}

#[tokio::test]
async fn a_record_of_a_newer_version_is_refused_and_left_alone() {
    let server = server();
    let store = store_on(&server).await;
    let mut raw = Raw::of(&server);
    let mut claim = claim_of(new_key());
    claim.lease = Duration::from_millis(1);
    let hold = granted(&store, &claim).await;
    let key = record_of(&hold.key);
    raw.ask::<()>(["HSET", &key, "v", "2", "state", "something new"]);
    let before = (raw.hash(&key), raw.ask::<i64>(["PTTL", &key]));
    let others = granted(&store, &claim_of(new_key())).await;
    tokio::time::sleep(Duration::from_millis(5)).await;

    for (step, error) in each_step(&store, &hold).await {
        assert!(matches!(error, StoreError::Newer(2)), "{step}: {error:?}");
    }
    let renewed = store.renew(&[hold, others], LONG).await.expect("renew");
    assert_eq!(renewed, [StepOutcome::Stale, StepOutcome::Applied]);
    assert_eq!(store.unknown(None, 10).await.expect("a list"), []);
    assert_eq!(store.count_unknown().await.expect("a count"), 0);
    assert_eq!(store.sweep(10).await.expect("a sweep"), 0);
    assert_eq!(raw.hash(&key), before.0);
    let left = raw.ask::<i64>(["PTTL", &key]);
    assert!(before.1 - 60_000 < left && left <= before.1, "{left} ms, of {}", before.1);
    assert_eq!(raw.ask::<u32>(["ZCARD", &shared_of(&hold.key, "leases")]), 1);
}

#[tokio::test]
async fn a_full_server_refuses_new_keys_and_finishes_old_ones() {
    let server = server();
    let store = store_on(&server).await;
    let mut raw = Raw::of(&server);
    let done = granted(&store, &claim_of(new_key())).await;
    assert_eq!(complete(&store, &done).await.expect("complete"), StepOutcome::Applied);
    let mut holds = Vec::new();
    for _ in 0..3 {
        holds.push(granted(&store, &reserved(new_key())).await);
    }
    let mut lapsing = claim_of(new_key());
    lapsing.lease = Duration::from_millis(1);
    let lapsed = granted(&store, &lapsing).await;
    raw.ask::<()>(["CONFIG", "SET", "maxmemory", "1"]);
    let keys = raw.ask::<u32>(["DBSIZE"]);

    let key = new_key();
    for _ in 0..2 {
        let full = store.claim(&claim_of(key)).await;
        assert!(matches!(full, Err(StoreError::Full)), "{full:?}");
    }
    assert_eq!(raw.ask::<u32>(["DBSIZE"]), keys, "nothing was done");
    let full = store.checkpoint(&holds[0], vec![0; 100]).await;
    assert!(matches!(full, Err(StoreError::Full)), "{full:?}");

    let look = async |hold: &Hold| store.claim(&claim_of(hold.key)).await.expect("an answer");
    assert_eq!(look(&done).await, ClaimOutcome::Replay(b"done".to_vec()));
    assert!(matches!(look(&holds[0]).await, ClaimOutcome::InFlight { .. }));
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(matches!(look(&lapsed).await, ClaimOutcome::Unknown { .. }));
    let all = [StepOutcome::Applied; 3];
    assert_eq!(store.renew(&holds, LONG).await.expect("renew"), all);
    assert_eq!(store.mark_started(&holds[0]).await.expect("mark"), StepOutcome::Applied);
    assert_eq!(complete(&store, &holds[0]).await.expect("complete"), StepOutcome::Applied);
    assert_eq!(look(&holds[0]).await, ClaimOutcome::Replay(b"done".to_vec()));
    assert_eq!(store.abandon(&holds[1], LONG).await.expect("abandon"), StepOutcome::Applied);
    let release = store.release(&holds[2].key, &holds[2].owner, LONG).await;
    assert_eq!(release.expect("release"), StepOutcome::Applied);

    raw.ask::<()>(["CONFIG", "SET", "maxmemory", "0"]);
    granted(&store, &claim_of(key)).await;
}

#[tokio::test]
async fn fences_grow_though_their_counter_is_lost() {
    let server = server();
    let store = store_on(&server).await;
    let mut raw = Raw::of(&server);
    let key = new_key();
    let counter = shared_of(&key, "fence");
    let mut last = 0;
    for round in 0..4 {
        let hold = granted(&store, &claim_of(key)).await;
        assert!(hold.fence > last, "{} after {last}", hold.fence);
        last = hold.fence;
        assert_eq!(raw.ask::<u64>(["GET", &counter]), last);
        assert_eq!(raw.ask::<i64>(["PTTL", &counter]), -1);
        let release = store.release(&key, &hold.owner, LONG).await;
        assert_eq!(release.expect("release"), StepOutcome::Applied);
        if round == 1 {
            raw.ask::<()>(["DEL", &counter]);
        }
    }
    // Fences also grow after the clock was set back an hour.
    let ahead = last + 3_600_000_000;
    raw.ask::<()>(["SET", &counter, &ahead.to_string()]);
    assert_eq!(granted(&store, &claim_of(key)).await.fence, ahead + 1);
}

#[tokio::test]
async fn each_step_works_on_a_node_of_a_cluster() {
    let server = RedisServer::start(&[("cluster-enabled", "yes")]).expect("a server");
    let mut raw = Raw::of(&server);
    let mut slots = vec!["CLUSTER".to_owned(), "ADDSLOTS".to_owned()];
    slots.extend((0..16_384).map(|slot| slot.to_string()));
    raw.ask::<()>(slots);
    let begun = Instant::now();
    while !raw.ask::<String>(["CLUSTER", "INFO"]).contains("cluster_state:ok") {
        assert!(begun.elapsed() < Duration::from_secs(20), "the cluster does not form");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let store = store_on(&server).await;
    let mut holds = Vec::new();
    for _ in 0..20 {
        let hold = granted(&store, &reserved(new_key())).await;
        assert_eq!(store.mark_started(&hold).await.expect("mark"), StepOutcome::Applied);
        let kept = store.checkpoint(&hold, b"half".to_vec()).await;
        assert_eq!(kept.expect("kept"), StepOutcome::Applied);
        holds.push(hold);
    }
    let renewed = store.renew(&holds, LONG).await.expect("renew");
    assert!(renewed.iter().all(|&written| written == StepOutcome::Applied));
    for hold in &holds {
        assert_eq!(store.abandon(hold, LONG).await.expect("abandon"), StepOutcome::Applied);
    }
    assert_eq!(store.count_unknown().await.expect("a count"), 20);
    for told in store.unknown(None, 100).await.expect("a list") {
        let resolved = store.resolve(&told.key, told.fence, Resolution::Never).await;
        assert_eq!(resolved.expect("resolve"), StepOutcome::Applied);
    }
    assert_eq!(store.sweep(100).await.expect("a sweep"), 0);
    let hold = granted(&store, &claim_of(new_key())).await;
    assert_eq!(complete(&store, &hold).await.expect("complete"), StepOutcome::Applied);
}

#[tokio::test]
async fn what_is_no_record_is_garbled_and_left_alone() {
    let server = server();
    let store = store_on(&server).await;
    let mut raw = Raw::of(&server);
    let fields = ["v", "state", "owner", "fence", "fingerprint", "since", "until", "unknown_for"];
    let mut spoilt = Vec::new();
    let mut spoil = async |words: &[&str]| {
        let hold = granted(&store, &claim_of(new_key())).await;
        let key = record_of(&hold.key);
        let words: Vec<_> = [words[0], key.as_str()].iter().chain(&words[1..]).copied().collect();
        if words[0] == "SET" || words[2..].contains(&"foreign") {
            raw.ask::<()>(["DEL", &key]);
        }
        raw.ask::<()>(words);
        spoilt.push(hold);
    };
    spoil(&["SET", "text"]).await;
    spoil(&["HSET", "foreign", "field"]).await;
    for field in fields {
        spoil(&["HDEL", field]).await;
        spoil(&["HSET", field, ""]).await;
        spoil(&["HSET", field, "-1"]).await;
        spoil(&["HSET", field, "99999999999999999999"]).await;
        spoil(&["HSET", field, "nan"]).await;
    }
    spoil(&["HSET", "state", "taken over"]).await;
    spoil(&["HSET", "v", "0"]).await;
    let untouched = granted(&store, &claim_of(new_key())).await;

    for hold in &spoilt {
        let key = record_of(&hold.key);
        let before: Vec<u8> = raw.ask(["DUMP", &key]);
        for (step, error) in each_step(&store, hold).await {
            assert!(matches!(error, StoreError::Garbled(_)), "{step} of {key}: {error:?}");
        }
        assert_eq!(raw.ask::<Vec<u8>>(["DUMP", &key]), before, "{key}");
    }
    spoilt.push(untouched);
    let renewed = store.renew(&spoilt, LONG).await.expect("renew");
    let applied = renewed.iter().filter(|&&written| written == StepOutcome::Applied).count();
    assert_eq!((applied, renewed.last()), (1, Some(&StepOutcome::Applied)));
    assert_eq!(store.unknown(None, 10).await.expect("a list"), []);
    assert_eq!(store.sweep(10).await.expect("a sweep"), 0);
}

#[tokio::test]
async fn a_spoilt_counter_or_index_is_garbled() {
    let server = server();
    let store = store_on(&server).await;
    let mut raw = Raw::of(&server);
    for value in ["", "-5", "1e99", "nan", "99999999999999999999"] {
        let key = new_key();
        raw.ask::<()>(["SET", &shared_of(&key, "fence"), value]);
        let garbled = store.claim(&claim_of(key)).await;
        assert!(matches!(garbled, Err(StoreError::Garbled(_))), "{value:?}: {garbled:?}");
        assert_eq!(raw.ask::<u32>(["EXISTS", &record_of(&key)]), 0);
        raw.ask::<()>(["DEL", &shared_of(&key, "fence")]);
    }
    for (name, spoil) in [("fence", "RPUSH"), ("leases", "SADD"), ("unknown", "SADD")] {
        let key = new_key();
        raw.ask::<()>(["DEL", &shared_of(&key, name)]);
        raw.ask::<()>([spoil, &shared_of(&key, name), "x"]);
        let garbled = store.claim(&claim_of(key)).await;
        assert!(matches!(garbled, Err(StoreError::Garbled(_))), "{name}: {garbled:?}");
    }
    let listed = store.unknown(None, 10).await;
    assert!(matches!(listed, Err(StoreError::Garbled(_))), "{listed:?}");
}

#[tokio::test]
async fn each_record_expires_by_itself_when_nothing_of_it_can_matter() {
    let server = server();
    let store = store_on(&server).await;
    let mut raw = Raw::of(&server);
    let mut expires = |hold: &Hold, within: Duration, what: &str| {
        let left = Duration::from_millis(raw.ask(["PTTL", &record_of(&hold.key)]));
        let late = Duration::from_millis(1_001);
        assert!(
            within - Duration::from_secs(10) < left && left <= within + late,
            "{what}: {left:?}"
        );
        left
    };
    let hold = granted(&store, &reserved(new_key())).await;
    expires(&hold, LONG, "reserved");
    assert_eq!(store.renew(&[hold], 2 * LONG).await.expect("renew"), [StepOutcome::Applied]);
    expires(&hold, 2 * LONG, "renewed");
    assert_eq!(store.mark_started(&hold).await.expect("mark"), StepOutcome::Applied);
    expires(&hold, 2 * LONG + RETENTION, "started");
    assert_eq!(store.abandon(&hold, LONG).await.expect("abandon"), StepOutcome::Applied);
    expires(&hold, LONG, "unknown");
    let mut heir = reserved(hold.key);
    heir.on_unknown = OnUnknown::TakeOver;
    let hold = granted(&store, &heir).await;
    expires(&hold, LONG + RETENTION, "taken over");
    let done = Completed::replayable(b"done".to_vec(), 4);
    assert_eq!(store.complete(&hold, done, 3 * LONG).await.expect("done"), StepOutcome::Applied);
    expires(&hold, 3 * LONG, "completed");
}

#[tokio::test]
async fn nothing_but_the_counters_is_left_when_all_is_over() {
    let server = server();
    let store = store_on(&server).await;
    let mut raw = Raw::of(&server);
    let moment = Duration::from_millis(1);
    let brief = |mut claim: Claim| {
        (claim.lease, claim.unknown_for) = (moment, moment);
        claim
    };
    granted(&store, &brief(reserved(new_key()))).await;
    granted(&store, &brief(claim_of(new_key()))).await;
    let hold = granted(&store, &claim_of(new_key())).await;
    assert_eq!(store.abandon(&hold, moment).await.expect("abandon"), StepOutcome::Applied);
    let hold = granted(&store, &claim_of(new_key())).await;
    let done = Completed::not_replayable();
    assert_eq!(
        store.complete(&hold, done, Duration::ZERO).await.expect("done"),
        StepOutcome::Applied
    );
    assert!(raw.keys().iter().any(|key| key.contains(":r:")));
    let begun = Instant::now();
    while raw.keys().iter().any(|key| key.contains(":r:")) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", raw.keys());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(store.count_unknown().await.expect("a count"), 0);
    assert_eq!(store.unknown(None, 10).await.expect("a list"), []);
    assert_eq!(store.sweep(1).await.expect("a sweep"), 1);
    assert_eq!(store.sweep(10).await.expect("a sweep"), 1);
    let left = raw.keys();
    assert!(left.iter().all(|key| key.ends_with(":fence")), "{left:?}");
}

/// Starts a server that sends the same bytes to each script, and `OK` while connecting.
///
/// It does not respond to scripts at all on its first `silent` connections.
async fn babbler(silent: usize, answer: &'static [u8]) -> String {
    async fn babble(mut stream: TcpStream, answer: Option<&[u8]>) -> std::io::Result<()> {
        let mut buffer = vec![0; 65_536];
        loop {
            let read = stream.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            let asked = String::from_utf8_lossy(&buffer[..read]);
            if asked.contains("EVAL") {
                match answer {
                    None => continue,
                    Some([]) => return Ok(()),
                    Some(answer) => stream.write_all(answer).await?,
                }
            } else {
                let commands = asked.split("\r\n").filter(|line| line.starts_with('*')).count();
                stream.write_all("+OK\r\n".repeat(commands).as_bytes()).await?;
            }
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        for number in 0.. {
            let Ok((stream, _)) = listener.accept().await else { break };
            tokio::spawn(babble(stream, (number >= silent).then_some(answer)));
        }
    });
    format!("redis://{address}/")
}

async fn store_on_babbler(silent: usize, answer: &'static [u8]) -> RedisStore {
    RedisStore::builder(babbler(silent, answer).await)
        .response_timeout(Duration::from_millis(200))
        .accept_loss()
        .build()
        .await
        .expect("a store")
}

#[tokio::test]
async fn a_connection_that_does_not_answer_is_not_asked_again() {
    let store = store_on_babbler(2, b"*2\r\n$7\r\nclaimed\r\n$1\r\n7\r\n").await;
    for _ in 0..2 {
        let silent = store.claim(&claim_of(new_key())).await;
        assert!(matches!(silent, Err(StoreError::Unavailable(_))), "{silent:?}");
    }
    assert_eq!(granted(&store, &claim_of(new_key())).await.fence, 7);
}

#[tokio::test]
async fn a_connection_that_does_not_answer_is_replaced_even_if_each_step_is_dropped() {
    let store = store_on_babbler(1, b"*2\r\n$7\r\nclaimed\r\n$1\r\n7\r\n").await;
    let begun = Instant::now();
    // Less than the time limit for a response.
    let patience = Duration::from_millis(50);
    loop {
        let claim = claim_of(new_key());
        match tokio::time::timeout(patience, store.claim(&claim)).await {
            Ok(claimed) => {
                assert!(matches!(claimed, Ok(ClaimOutcome::Claimed { fence: 7, .. })));
                return;
            }
            Err(_) => assert!(begun.elapsed() < Duration::from_secs(5), "never replaced"),
        }
    }
}

/// Lets time pass at once.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_connection_that_answers_is_kept_whenever_its_steps_are_dropped() {
    let server = server();
    let store = store_on(&server).await;
    let mut raw = Raw::of(&server);
    let mut made = || {
        let stats: String = raw.ask(["INFO", "stats"]);
        let made = stats.lines().find(|line| line.starts_with("total_connections_received:"));
        made.expect("a count").to_owned()
    };
    granted(&store, &claim_of(new_key())).await;
    let before = made();
    // Steps that are dropped at once, and pauses without a step.
    for dropped in [1, 1, 2, 2] {
        for _ in 0..dropped {
            assert!(store.claim(&claim_of(new_key())).now_or_never().is_none());
            pass(Duration::from_secs(3)).await;
        }
        granted(&store, &claim_of(new_key())).await;
        assert_eq!(made(), before);
    }
    // Steps that wait at the same time, for less than the limit.
    let claims: Vec<Claim> = (0..64).map(|_| claim_of(new_key())).collect();
    let mut steps: Vec<_> = claims.iter().map(|claim| Box::pin(store.claim(claim))).collect();
    assert!(steps.iter_mut().all(|step| step.now_or_never().is_none()));
    pass(Duration::from_secs(1)).await;
    drop(steps);
    granted(&store, &claim_of(new_key())).await;
    assert_eq!(made(), before);
}

#[tokio::test]
async fn whatever_a_server_says_is_an_error_that_fits() {
    let unavailable: &[&[u8]] = &[
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-READONLY You can't write against a read only replica.\r\n",
        b"-MASTERDOWN Link with MASTER is down\r\n",
        b"-MISCONF Errors writing to the AOF file\r\n",
        b"-NOSCRIPT No matching script.\r\n",
        b"-NOPERM no permissions\r\n",
        b"-ERR unknown command\r\n",
        b"-BUSY Redis is busy running a script.\r\n",
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"*2\r\n$7\r\ncla",
    ];
    let full: &[&[u8]] = &[
        b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
        b"-ERR Error running script: @user_script:9: -OOM command not allowed when used memory\r\n",
    ];
    let garbled: &[&[u8]] = &[
        b"+OK\r\n",
        b"$-1\r\n",
        b":7\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"*1\r\n$7\r\nclaimed\r\n",
        b"*2\r\n$7\r\nclaimed\r\n$2\r\n-1\r\n",
        b"*1\r\n*1\r\n$7\r\nclaimed\r\n",
        b"*2\r\n$5\r\nnewer\r\n$5\r\n99999\r\n",
        b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
    ];
    let is_unavailable: fn(&StoreError) -> bool = |e| matches!(e, StoreError::Unavailable(_));
    let is_full: fn(&StoreError) -> bool = |e| matches!(e, StoreError::Full);
    let is_garbled: fn(&StoreError) -> bool = |e| matches!(e, StoreError::Garbled(_));
    for (answers, fits) in [(unavailable, is_unavailable), (full, is_full), (garbled, is_garbled)] {
        for answer in answers {
            let said = String::from_utf8_lossy(answer);
            let store = store_on_babbler(0, answer).await;
            for _ in 0..2 {
                let error = store.claim(&claim_of(new_key())).await.expect_err(&said);
                assert!(fits(&error), "{said:?}: {error:?}");
            }
        }
    }
}
