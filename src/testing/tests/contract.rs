//! Tests of the contract checks: correct services pass, and each fault is found by its rule.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::subject::{Again, Fault, Late, Pool, Subject, Text};
use crate::testing::{
    CheckOutcome, Report,
    contract::{Contract, Rule},
};

fn contract() -> Contract<Text, Text, Text> {
    Contract::new(|| "request", || "response", || "inner error")
}

/// Runs the checks inside a runtime, because some faults use its timers.
async fn check(fault: Fault) -> Report {
    contract()
        .check_with(
            |inner| Subject::new(inner, fault, Arc::default()),
            || tokio::time::advance(Duration::from_millis(10)),
        )
        .await
}

fn check_rejecting(fault: Fault) -> Report {
    contract().check_rejecting(|inner| {
        let pool = Arc::new(Pool::default());
        pool.taken.store(true, Ordering::SeqCst);
        Subject::new(inner, fault, pool)
    })
}

fn check_late(fault: Fault) -> Report {
    contract().always_ready().check(|inner| Late { inner, fault })
}

fn check_again(fault: Fault) -> Report {
    contract().check(|inner| Again { inner, fault })
}

#[test]
fn what_is_right_passes() {
    contract().check(|inner| Subject::new(inner, Fault::None, Arc::default())).assert();
    check_rejecting(Fault::None).assert();
    check_late(Fault::None).assert();
    check_again(Fault::None).assert();
    contract().check(|inner| inner).assert();
}

#[tokio::test(start_paused = true)]
async fn each_rule_catches_its_faults() {
    for (fault, rule) in [
        (Fault::CallsAClone, Rule::CallsTheReadied),
        (Fault::ReservesAtEveryPoll, Rule::ReadyOnce),
        (Fault::CopiesReadiness, Rule::ClonesStartUnready),
        (Fault::KeepsServices, Rule::FreesOnDrop),
        (Fault::KeepsFutures, Rule::FreesOnDrop),
        (Fault::KeepsPermits, Rule::FreesOnDrop),
        (Fault::KeepsPermits, Rule::SurvivesPanics),
        (Fault::KeepsWakers, Rule::FreesOnDrop),
        (Fault::PollsInCall, Rule::CallDoesNotWait),
        (Fault::PollsReadinessInCall, Rule::CallDoesNotWait),
        (Fault::PollsReadinessInCall, Rule::HoldsNothingIdle),
        (Fault::WaitsOnePoll, Rule::CallDoesNotWait),
        (Fault::WaitsOnePoll, Rule::NeedsNoRuntime),
        (Fault::TimerFirst, Rule::ResponseBeatsTimer),
        (Fault::ArmsATimer, Rule::NeedsNoRuntime),
        (Fault::ChangesErrors, Rule::ErrorsPassThrough),
        (Fault::HidesReadinessErrors, Rule::ReadinessErrorsPassOnce),
        (Fault::UsesTheFailed, Rule::ReadinessErrorsPassOnce),
        (Fault::LosesReadiness, Rule::WakesWaiters),
        (Fault::KeepsFirstWaker, Rule::WakesWaiters),
        (Fault::LosesAnswers, Rule::WakesWaiters),
        (Fault::WakesItself, Rule::WakesWaiters),
        (Fault::HidesPanics, Rule::SurvivesPanics),
    ] {
        let report = check(fault).await;
        assert!(report.broke(rule), "{fault:?} passed {rule:?}\n{report}");
    }
    check(Fault::None).await.assert();
}

#[tokio::test(start_paused = true)]
async fn a_fault_is_not_blamed_on_other_rules() {
    // The checks of readiness and of wakes also poll late.
    let late = [Rule::ResponseBeatsTimer, Rule::ReadyOnce, Rule::WakesWaiters];
    for (fault, rules) in [
        (Fault::TimerFirst, &late[..]),
        (Fault::ArmsATimer, &[Rule::NeedsNoRuntime]),
        (Fault::ChangesErrors, &[Rule::ErrorsPassThrough]),
        (Fault::HidesPanics, &[Rule::SurvivesPanics]),
    ] {
        let report = check(fault).await;
        for rule in Rule::GENERAL {
            assert_eq!(report.broke(rule), rules.contains(&rule), "{rule:?}\n{report}");
        }
    }
}

#[test]
fn rejections_are_checked() {
    for (fault, rule) in [
        (Fault::RejectsInReadiness, Rule::RejectsInCall),
        (Fault::RejectsLate, Rule::RejectsInCall),
        (Fault::AsksInnerFirst, Rule::RejectsInCall),
        (Fault::AsksInnerFirst, Rule::RejectsBeforeInner),
    ] {
        let report = check_rejecting(fault);
        assert!(report.broke(rule), "{fault:?} passed {rule:?}\n{report}");
    }
    let admitted = contract().check_rejecting(|inner| inner);
    assert!(admitted.broke(Rule::RejectsInCall));
}

#[test]
fn waiting_and_retrying_services_are_checked() {
    let peeks = check_late(Fault::PeeksAtInner);
    assert!(peeks.broke(Rule::WaitsEmptyHanded), "{peeks}");
    let holds = check_again(Fault::HoldsOverSleep);
    assert!(holds.broke(Rule::HoldsNothingIdle), "{holds}");
    let unready = check_again(Fault::RetriesUnready);
    assert!(unready.broke(Rule::CallsTheReadied), "{unready}");
    let undeclared = contract().check(|inner| Late { inner, fault: Fault::None });
    assert!(undeclared.broke(Rule::WakesWaiters), "{undeclared}");
}

#[test]
fn the_report_says_what_was_declared_and_what_was_added() {
    let report = contract()
        .except(Rule::ErrorsPassThrough, "it answers from a cache instead")
        .also("a check of your own", || Err("it failed".to_owned()))
        .check(|inner| inner);
    let declared = report
        .findings()
        .filter(|finding| finding.rule() == Some(Rule::ErrorsPassThrough))
        .map(|finding| finding.outcome());
    let why = CheckOutcome::NotApplicable("it answers from a cache instead".to_owned());
    assert!(declared.eq([&why, &why]));

    let failures: Vec<_> = report.failures().collect();
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].name(), "a check of your own");
    assert!(report.to_string().contains("it failed"), "{report}");
}

#[test]
#[should_panic(expected = "2 checks failed")]
fn a_broken_rule_fails_the_assertion() {
    contract()
        .except(Rule::WakesWaiters, "not what this test is about")
        .check(|inner| Late { inner, fault: Fault::None })
        .assert();
}
