//! What a sandbox in a given state does with a request: a pure table, without I/O or locks.

use super::State;

/// What may be asked of a sandbox and be refused. Its destruction never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Make it.
    Create,
    /// Reach its guest: a command, a file, a ping.
    Use,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Do it.
    Proceed,
    /// The same has been asked before: answer with the outcome of that.
    Join,
    /// It cannot be done, for this reason.
    Refuse(&'static str),
}

/// What becomes of `request` on a sandbox in `state`.
pub(crate) fn admit(state: State, request: Request) -> Verdict {
    use Verdict::{Join, Proceed, Refuse};
    match (request, state) {
        (Request::Create, State::Starting | State::Running) => Join,
        (Request::Create, State::Stopping | State::Stopped) => Refuse("its id cannot be used again"),
        (Request::Use, State::Running) => Proceed,
        (Request::Use, State::Starting) => Refuse("wait until it runs"),
        (Request::Use, State::Stopping | State::Stopped) => Refuse("it has ended"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
