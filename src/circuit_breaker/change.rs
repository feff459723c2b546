//! The changes of state: by counts, by probes and by hand.

use std::{
    mem,
    sync::atomic::{Ordering, fence},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    breaker::{Breaker, Phase, Window},
    cold::{Machine, NO_END},
    config::Config,
    effects::{Change, Effects, Hint},
    half_open::{Dropped, LeaseId, Progress, Round},
    state::{State, TripReason},
};
use crate::{
    call::{clock::nanos, waiters::wake_all},
    telemetry::{Event, instrument::CIRCUIT_BREAKER_PROBES},
};

impl Breaker {
    pub(super) fn trip(&self, phase: Phase, reason: TripReason, hint: Option<Hint>) {
        let now = Instant::now();
        let mut machine = self.machine();
        let mut effects = Effects::default();
        // Several results may meet a condition at the same time. The first one opens the breaker.
        if self.phase() == phase {
            self.open(&mut machine, reason, hint, now, &mut effects);
        }
        drop(machine);
        self.carry_out(effects);
    }

    pub(super) fn open(
        &self,
        machine: &mut Machine,
        reason: TripReason,
        hint: Option<Hint>,
        now: Instant,
        effects: &mut Effects,
    ) {
        if reason != TripReason::Probes {
            // The dependency kept its word, because a round of probes has passed.
            machine.overloads = 0;
            let well = machine.closed_at.map(|closed| now.saturating_duration_since(closed));
            if well.is_none_or(|well| well >= machine.last_outage) {
                machine.outages = 0;
            }
        }
        let overload = hint.is_some_and(|hint| hint.overload);
        let row = if overload { &mut machine.overloads } else { &mut machine.outages };
        *row = row.saturating_add(1);
        let open_for = self.config.open_time(*row, hint);
        if !overload {
            (machine.last_outage, machine.is_down) = (open_for, true);
        }
        machine.last_trip = Some(reason);
        let until = now.saturating_duration_since(self.config.origin).saturating_add(open_for);
        // `NO_END` is only for a breaker that was opened by hand.
        self.cold().open_until.store(nanos(until).min(NO_END - 1), Ordering::Release);
        self.change(machine, State::Open, now, effects);
        effects.event = Some(Change::Opened { reason, open_for: Some(open_for) });
    }

    /// Acts on the progress of a round of probes.
    pub(super) fn advance(
        &self,
        machine: &mut Machine,
        progress: Progress,
        hint: Option<Hint>,
        now: Instant,
        effects: &mut Effects,
    ) {
        effects.probes.add(machine.round.take_ends());
        match progress {
            Progress::Undecided => {}
            Progress::Passed => {
                if mem::take(&mut machine.is_down) {
                    machine.closed_at = Some(now);
                }
                self.close(machine, "probes_passed", now, effects);
            }
            Progress::Failed => {
                let other = hint.map(|hint| Hint { overload: false, ..hint });
                let hint = machine.round.overloaded().or(other);
                self.open(machine, TripReason::Probes, hint, now, effects);
            }
        }
    }

    fn close(
        &self,
        machine: &mut Machine,
        reason: &'static str,
        now: Instant,
        effects: &mut Effects,
    ) {
        let open_since = machine.open_since;
        let rejected = self.cold().rejected.load(Ordering::Relaxed);
        self.change(machine, State::Closed, now, effects);
        effects.event = Some(Change::Closed {
            reason,
            rejected: open_since.map_or(0, |_| rejected),
            open_for: open_since.map(|since| now.saturating_duration_since(since)),
        });
    }

    /// Changes the state.
    ///
    /// Everything that the new state needs is stored before the new phase is visible.
    pub(super) fn change(
        &self,
        machine: &mut Machine,
        state: State,
        now: Instant,
        effects: &mut Effects,
    ) {
        let previous = self.phase();
        let phase = previous.next(state);
        machine.changed_at = Some(now);
        match state {
            State::Closed | State::Disabled => machine.open_since = None,
            State::Open | State::HalfOpen | State::ForcedOpen if machine.open_since.is_none() => {
                machine.open_since = Some(now);
                self.cold().rejected.store(0, Ordering::Relaxed);
            }
            State::Open | State::HalfOpen | State::ForcedOpen => {}
        }
        machine.round = Round::begin_after(&machine.round);
        match (state, previous.state()) {
            (State::Open | State::ForcedOpen, State::Open | State::ForcedOpen) => {}
            (State::Open | State::ForcedOpen, _) => machine.opened += 1,
            (State::Closed, State::Closed | State::Disabled) => {}
            (State::Closed, _) => machine.closed += 1,
            (State::HalfOpen | State::Disabled, _) => {}
        }
        if state == State::Closed {
            self.clear_window(phase.generation());
            // A silence of the last phase says nothing about this one.
            self.patience.heard();
        }
        self.phase.store(phase.word(), Ordering::Release);
        self.count_key(machine);
        // Wakes all waiting callers. A caller that waits for a half-open breaker has no timer for
        // the open time that follows.
        if state != State::HalfOpen {
            effects.wake.extend(machine.waiting.call_all());
        }
        effects.wake.extend(machine.watching.call_all());
    }

    /// Counts the key of the breaker in its current state, or nowhere if no map keeps it.
    pub(super) fn count_key(&self, machine: &mut Machine) {
        let Some(counts) = &self.config.key_counts else { return };
        // A map that forgets the breaker either sees the lock, or is seen here.
        fence(Ordering::SeqCst);
        if self.is_kept.load(Ordering::Relaxed) {
            let state = self.phase().state();
            counts.remove(mem::replace(&mut machine.counted, state));
            counts.add(state);
        }
    }

    fn clear_window(&self, generation: u64) {
        match &self.window {
            Window::Calls(window) => window.reset(generation),
            Window::Time(calls) => calls.reset(generation),
        }
        let cold = self.cold();
        cold.reset_consecutive(generation);
        cold.failures.reset(generation);
        cold.slow.reset(generation);
    }

    pub(super) fn carry_out(&self, effects: Effects) {
        // A subscriber that panics must not keep a caller waiting.
        wake_all(effects.wake);
        if let Some(meter) = self.config.reporter.meter() {
            for (result, count) in effects.probes.by_result() {
                (0..count).for_each(|_| meter.add(&CIRCUIT_BREAKER_PROBES, [result, ""]));
            }
        }
        if let Some(change) = effects.event {
            self.report(change);
        }
    }

    fn report(&self, change: Change) {
        let key = self.key();
        self.config.reporter().emit(match change {
            Change::Opened { reason, open_for } => {
                Event::CircuitOpened { key, reason: reason.as_str(), open_for }
            }
            Change::HalfOpen => Event::CircuitHalfOpen { key, probes: self.config.probes },
            Change::Closed { reason, rejected, open_for } => {
                Event::CircuitClosed { key, reason, rejected, open_for }
            }
            Change::Disabled => Event::CircuitDisabled { key },
        });
    }

    /// Settles a probe that has a result, or releases its slot if `passed` is `None`.
    pub(super) fn settle_probe(
        &self,
        phase: Phase,
        lease: LeaseId,
        passed: Option<bool>,
        hint: Option<Hint>,
    ) {
        self.end_probe(phase, hint, |round, _, config| round.settle(lease, passed, hint, config));
    }

    /// Accounts for a probe that was dropped.
    pub(super) fn abandon_probe(&self, phase: Phase, lease: LeaseId, dropped: Dropped) {
        self.end_probe(phase, None, |round, now, config| {
            round.abandon(lease, dropped, now, config)
        });
    }

    fn end_probe(
        &self,
        phase: Phase,
        hint: Option<Hint>,
        end: impl FnOnce(&mut Round, Instant, &Config) -> Progress,
    ) {
        let now = Instant::now();
        let mut machine = self.machine();
        let mut effects = Effects::default();
        // A probe of an earlier round says nothing about this one.
        if self.phase() == phase {
            // Ends expired leases first. Otherwise the order of the callers would decide whether a
            // late result counts.
            let progress = match machine.round.expire(now, &self.config) {
                Progress::Undecided => end(&mut machine.round, now, &self.config),
                decided => decided,
            };
            self.advance(&mut machine, progress, hint, now, &mut effects);
            if progress == Progress::Undecided && machine.round.free_slots(&self.config) > 0 {
                // One slot is free again. One waiting caller can continue.
                effects.wake.extend(machine.waiting.call_first());
            }
        }
        drop(machine);
        self.carry_out(effects);
    }

    /// Opens the breaker by hand, for this time or until it is changed by hand.
    ///
    /// Does nothing if the breaker is already open by hand without an end, and `time` is `None`.
    pub(super) fn force_open(&self, time: Option<Duration>) {
        let now = Instant::now();
        let until = time.map_or(NO_END, |time| {
            let until = now.saturating_duration_since(self.config.origin).saturating_add(time);
            nanos(until).min(NO_END - 1)
        });
        let mut machine = self.machine();
        let mut effects = Effects::default();
        let previous = self.cold().open_until.swap(until, Ordering::AcqRel);
        let is_forced = self.phase().state() == State::ForcedOpen;
        if !is_forced || previous != NO_END || until != NO_END {
            // No call is admitted, so the dependency is not known to be well in this time.
            (machine.last_trip, machine.is_down) = (Some(TripReason::Forced), true);
            self.change(&mut machine, State::ForcedOpen, now, &mut effects);
            effects.event = Some(Change::Opened { reason: TripReason::Forced, open_for: time });
        }
        drop(machine);
        self.carry_out(effects);
    }

    /// Closes the breaker by hand.
    ///
    /// Does nothing if the breaker is closed, unless `forget` is set. With `forget`, the earlier
    /// trips are discarded too.
    pub(super) fn force_closed(&self, forget: bool) {
        let now = Instant::now();
        let mut machine = self.machine();
        let mut effects = Effects::default();
        let was_closed = self.phase().is_closed();
        if forget {
            (machine.outages, machine.overloads) = (0, 0);
        }
        if forget || !was_closed {
            (machine.closed_at, machine.is_down) = (Some(now), false);
            self.close(&mut machine, "forced", now, &mut effects);
        }
        if was_closed {
            effects.event = None;
        }
        drop(machine);
        self.carry_out(effects);
    }

    /// Disables the breaker by hand, unless it is disabled already.
    pub(super) fn disable(&self) {
        let now = Instant::now();
        let mut machine = self.machine();
        let mut effects = Effects::default();
        if self.phase().state() != State::Disabled {
            self.change(&mut machine, State::Disabled, now, &mut effects);
            effects.event = Some(Change::Disabled);
        }
        drop(machine);
        self.carry_out(effects);
    }
}
