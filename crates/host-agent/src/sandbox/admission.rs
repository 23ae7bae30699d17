//! What a sandbox in a given state does with a request: a pure table, without I/O or locks.
//!
//! A sandbox's task takes one order after another, so it asks when it is about to carry one out, and then the states of work in
//! progress are over. What goes past the task (commands, files, a second creation) asks when it comes.

use super::State;

/// What may be asked of a sandbox and be refused. Its destruction never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Make it.
    Create,
    /// Reach its guest: a command, a file, a ping.
    Use,
    /// Keep its memory and disk, and give back the rest.
    Pause,
    /// Let it go on.
    Resume,
    /// Copy it, or its disk.
    Capture,
    /// Change when it ends by itself.
    SetDeadline,
    /// Change where it may connect to.
    SetNetwork,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Do it.
    Proceed,
    /// It has been done, or is being done: answer with the outcome of that.
    Join,
    /// It cannot be done, for this reason.
    Refuse(&'static str),
}

/// What becomes of `request` on a sandbox in `state`.
pub(crate) fn admit(state: State, request: Request) -> Verdict {
    use Request::{Capture, Create, Pause, Resume, SetDeadline, SetNetwork, Use};
    use State::{Paused, Pausing, Resuming, Running, Starting, Stopped, Stopping};
    use Verdict::{Join, Proceed, Refuse};
    const WAIT: Verdict = Refuse("wait until it runs");
    match (request, state) {
        (Create, Stopping | Stopped) => Refuse("its id cannot be used again"),
        (Create, _) => Join,
        (_, Stopping | Stopped) => Refuse("it has ended"),

        (Use, Running) => Proceed,
        (Use, Pausing | Paused) => Refuse("resume it first"),

        (Pause, Running) => Proceed,
        (Pause, Pausing | Paused) => Join,

        (Resume, Paused) => Proceed,
        (Resume, Starting | Running | Resuming) => Join,
        (Resume, Pausing) => Refuse("wait until it is paused"),

        (Capture | SetDeadline | SetNetwork, Running | Paused) => Proceed,
        (Capture | SetDeadline | SetNetwork, Pausing) => Refuse("wait until it is paused"),

        (Use | Pause | Capture | SetDeadline | SetNetwork, Starting | Resuming) => WAIT,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REQUESTS: [Request; 7] = [
        Request::Create,
        Request::Use,
        Request::Pause,
        Request::Resume,
        Request::Capture,
        Request::SetDeadline,
        Request::SetNetwork,
    ];

    #[test]
    fn only_a_running_sandbox_can_be_used() {
        for state in State::ALL {
            assert_eq!(admit(state, Request::Use) == Verdict::Proceed, state == State::Running, "{state}");
        }
    }

    #[test]
    fn a_repeated_create_never_makes_a_second_machine() {
        for state in State::ALL {
            assert_ne!(admit(state, Request::Create), Verdict::Proceed, "{state}");
        }
    }

    #[test]
    fn what_has_ended_is_asked_for_nothing_more() {
        for request in REQUESTS {
            for state in [State::Stopping, State::Stopped] {
                assert!(matches!(admit(state, request), Verdict::Refuse(_)), "{state} {request:?}");
            }
        }
    }

    #[test]
    fn work_begins_in_a_state_of_rest_only() {
        for request in REQUESTS {
            for state in [State::Starting, State::Pausing, State::Resuming] {
                assert_ne!(admit(state, request), Verdict::Proceed, "{state} {request:?}");
            }
        }
    }

    proptest! {
        /// Orders in any order, each carried out as it is admitted, or failing: a sandbox has one machine or one set of files, and
        /// each repetition is answered like the first.
        #[test]
        fn a_sandbox_is_never_in_two_places(
            steps in prop::collection::vec((0..REQUESTS.len(), any::<bool>()), 0..40),
        ) {
            let (mut machines, mut images, mut state) = (1, 0, State::Running);
            for (request, succeeds) in steps {
                let request = REQUESTS[request];
                match (request, admit(state, request)) {
                    (Request::Pause, Verdict::Proceed) if succeeds => {
                        (machines, images, state) = (machines - 1, images + 1, State::Paused);
                    }
                    (Request::Resume, Verdict::Proceed) if succeeds => {
                        (machines, images, state) = (machines + 1, images - 1, State::Running);
                    }
                    (_, verdict) => {
                        let again = admit(state, request);
                        prop_assert_eq!(verdict, again);
                    }
                }
                prop_assert_eq!(machines + images, 1);
                prop_assert_eq!(machines == 1, state == State::Running);
            }
        }
    }
}
