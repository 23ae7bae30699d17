//! Steps as E2B's template builder sends them: a word for what is to be done, and its arguments. They are never a line of text, so that nothing
//! in them is taken for quoting.

use super::parse::RecipeFault;
use super::value::checked_name;
use super::{FilesName, Part, Step, Value};
use crate::limits;

/// Why a step of E2B's cannot be one of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum E2bFault {
    /// A word that is not known.
    #[error("unknown step type {word:?}")]
    Word {
        /// What was said.
        word: String,
    },
    /// Too few arguments, or too many.
    #[error("{word} has wrong arguments: {wanted}")]
    Arguments {
        /// Of which word.
        word: &'static str,
        /// What it takes.
        wanted: &'static str,
    },
    /// Nobody says where the files are.
    #[error("COPY has no filesHash, or one that is no SHA-256")]
    NoFiles,
    /// Permission bits that are none.
    #[error("COPY has a mode that is none: {text:?}")]
    Mode {
        /// What was said.
        text: String,
    },
    /// An argument that would be refused in a recipe, too.
    #[error(transparent)]
    Recipe(#[from] RecipeFault),
}

impl Step {
    /// The step of this word and these arguments; `files` is the archive that `COPY` takes its files from, by the client's own name.
    pub fn of_e2b(word: &str, args: &[String], files: Option<&str>) -> Result<Self, E2bFault> {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let wrong = |word, wanted| Err(E2bFault::Arguments { word, wanted });
        Ok(match (word, args.as_slice()) {
            ("RUN", [command]) => Self::Run { command: line(command)?, timeout: None, user: None },
            ("RUN", [command, user]) => {
                let user = Some(*user).filter(|user| !user.is_empty()).map(str::to_owned);
                Self::Run { command: line(command)?, timeout: None, user }
            }
            ("RUN", _) => return wrong("RUN", "a command, and a user or none"),
            ("ENV", pairs) if pairs.len() % 2 == 0 => {
                let pairs = pairs
                    .chunks_exact(2)
                    .map(|pair| Ok((checked_name(pair[0].to_owned())?, Value::expanding(pair[1]))));
                Self::Env { variables: pairs.collect::<Result<_, RecipeFault>>()? }
            }
            ("ENV", _) => return wrong("ENV", "names, and behind each its value"),
            ("WORKDIR", [path]) if !path.is_empty() => Self::Workdir { path: Value::expanding(path) },
            ("WORKDIR", _) => return wrong("WORKDIR", "a path"),
            ("USER", [name]) if !name.is_empty() && !name.contains(':') => {
                Self::User { name: Value::new([Part::Text((*name).to_owned())]) }
            }
            ("USER", _) => return wrong("USER", "the name of a user, without a group"),
            ("COPY", [source, dest, rest @ ..]) if !dest.is_empty() && rest.len() <= 2 => {
                copy(source, dest, rest, files)?
            }
            ("COPY", _) => return wrong("COPY", "a source, a destination, and a user and a mode or none"),
            (word, _) => return Err(E2bFault::Word { word: word.to_owned() }),
        })
    }

    /// What E2B's `startCmd` is.
    pub fn e2b_start(command: &str) -> Result<Self, E2bFault> {
        Ok(Self::Start { command: line(command)? })
    }
}

/// The archive has the files of this step alone. What our patterns cannot say (`**`, `[a-z]`) therefore means all of them.
fn copy(source: &str, dest: &str, rest: &[&str], files: Option<&str>) -> Result<Step, E2bFault> {
    let literal = |text: &str| Value::new([Part::Text(text.to_owned())]);
    let said = |at: usize| rest.get(at).copied().filter(|text| !text.is_empty());
    let files = files.and_then(|files| FilesName::client(files).ok()).ok_or(E2bFault::NoFiles)?;
    let is_ours = !source.contains("**") && !source.contains(['[', ']', '{', '}']);
    let mode = said(1).map(|text| match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err(E2bFault::Mode { text: text.to_owned() }),
    });
    Ok(Step::Copy {
        files: Some(files),
        sources: vec![literal(if is_ours { source } else { "." })],
        dest: literal(dest),
        owner: said(0).map(literal),
        mode: mode.transpose()?,
    })
}

/// A command as a shell takes it: any text, over as many lines as it likes.
fn line(command: &str) -> Result<String, RecipeFault> {
    if command.trim().is_empty() {
        return Err(RecipeFault::Nothing { word: "RUN" });
    }
    if command.len() > limits::COMMAND_BYTES / 2 || command.contains('\0') {
        return Err(RecipeFault::LongCommand);
    }
    Ok(command.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::{Action, Defaults, Dialect, State};
    use super::*;

    fn step(word: &str, args: &[&str]) -> Result<Step, E2bFault> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Step::of_e2b(word, &args, Some(&"0a".repeat(32)))
    }

    fn taken(state: &mut State, word: &str, args: &[&str]) -> Action {
        state.take(&step(word, args).unwrap())
    }

    #[test]
    fn steps_find_what_those_before_left_and_users_their_homes() {
        let mut state = State::new(Dialect::E2b, Defaults::default());
        assert_eq!((state.user(), state.workdir()), ("user", None));
        let odd = "--help \"$A\" \\\n && [ 'x' ] # y\\";
        let ran = Action::Run { command: odd.to_owned(), timeout: None, user: Some("root".to_owned()) };
        assert_eq!(taken(&mut state, "RUN", &[odd, "root"]), ran);
        taken(
            &mut state,
            "ENV",
            &["A", "a \"b\" \\ '", "PATH", "$HOME/bin:${PATH}", "B", "\\$A $A ${A:-x} $"],
        );
        assert_eq!(state.env()["A"], "a \"b\" \\ '");
        assert!(
            state.env()["PATH"].starts_with("/home/user/bin:/usr/local/sbin:"),
            "{}",
            state.env()["PATH"]
        );
        assert_eq!(state.env()["B"], "$A a \"b\" \\ ' ${A:-x} $");
        let made = |path: &str, owner: &str| Action::MakeFolder { path: path.into(), owner: owner.into() };
        assert_eq!(taken(&mut state, "WORKDIR", &["app"]), made("/home/user/app", "user"));
        taken(&mut state, "USER", &["root"]);
        assert_eq!(taken(&mut state, "WORKDIR", &["/srv/x y"]), made("/srv/x y", "root"));
        assert_eq!((state.user(), state.workdir()), ("root", Some("/srv/x y")));
        let copied = |state: &mut State, args: &[&str]| match taken(state, "COPY", args) {
            Action::Copy { sources, dest, owner, mode, files: Some(FilesName::Client(_)) } => {
                (sources.concat(), dest, owner, mode)
            }
            other => panic!("{other:?}"),
        };
        let is =
            |source: &str, dest: &str, owner: &str, mode| (source.into(), dest.into(), owner.into(), mode);
        assert_eq!(copied(&mut state, &["$a", "in/", "", ""]), is("$a", "/srv/x y/in/", "root", None));
        assert_eq!(copied(&mut state, &["a/**", "/b", "x", "0755"]), is(".", "/b", "x", Some(0o755)));
        let mut state = State::new(Dialect::E2b, Defaults::default());
        assert_eq!(copied(&mut state, &["a", "."]), is("a", "/home/user/", "user", None));
    }

    #[test]
    fn what_is_no_step_is_refused() {
        assert_eq!(step("ENV", &[]), Ok(Step::Env { variables: Vec::new() }));
        for (word, args) in [
            ("RUN", vec![]),
            ("RUN", vec!["a", "b", "c"]),
            ("ENV", vec!["A"]),
            ("WORKDIR", vec![""]),
            ("USER", vec!["a:b"]),
        ] {
            assert!(matches!(step(word, &args), Err(E2bFault::Arguments { .. })), "{word} {args:?}");
        }
        assert!(matches!(step("RUN", &[" "]), Err(E2bFault::Recipe(RecipeFault::Nothing { .. }))));
        assert!(matches!(step("RUN", &["a\0"]), Err(E2bFault::Recipe(RecipeFault::LongCommand))));
        assert!(matches!(step("ENV", &["1A", "x"]), Err(E2bFault::Recipe(RecipeFault::VariableName { .. }))));
        for args in [vec!["a"], vec!["a", ""], vec!["a", "b", "", "", ""]] {
            assert!(matches!(step("COPY", &args), Err(E2bFault::Arguments { .. })), "{args:?}");
        }
        assert!(matches!(step("COPY", &["a", "b", "", "9"]), Err(E2bFault::Mode { .. })));
        let args = ["a", "b"].map(str::to_owned);
        assert_eq!(Step::of_e2b("COPY", &args, Some("x")), Err(E2bFault::NoFiles));
        assert_eq!(Step::of_e2b("COPY", &args, None), Err(E2bFault::NoFiles));
        assert!(matches!(step("ADD", &["x"]), Err(E2bFault::Word { .. })));
    }
}
