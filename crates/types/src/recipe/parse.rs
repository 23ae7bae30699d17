//! From lines to a recipe.

use std::str::FromStr;
use std::time::Duration;

use super::base::IMAGE_BYTES;
use super::value::{assignments, checked_name, words};
use super::{FilesName, Origin, Recipe, Step, Value};
use crate::limits;

/// Most steps of a recipe.
pub const MAX_STEPS: usize = 200;
/// The longest time that one `RUN` may be given.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// What a Dockerfile may say that a recipe cannot do, and what to do about it.
const REFUSED: &[(&str, &str)] = &[
    ("ADD", "files are fetched by RUN"),
    ("ARG", "use ENV"),
    ("CMD", "a sandbox has no main process: use START for one that runs from the beginning"),
    ("ENTRYPOINT", "a sandbox has no main process: use START for one that runs from the beginning"),
    ("HEALTHCHECK", "the healthcheck is said with the build, not in its recipe"),
    ("ONBUILD", "write the steps themselves"),
    ("SHELL", "shell lines are run by /bin/sh"),
    ("STOPSIGNAL", "a sandbox has no main process"),
    ("VOLUME", "a sandbox has one disk"),
];

/// Why a recipe is none: which line, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {fault}")]
pub struct RecipeError {
    /// Where the step begins, from 1.
    pub line: usize,
    /// What is wrong.
    pub fault: RecipeFault,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipeFault {
    /// There is nothing to do.
    #[error("the recipe has no steps")]
    Empty,
    /// There is too much to do.
    #[error("a recipe may have at most {MAX_STEPS} steps")]
    TooLong,
    /// A word that needs something behind it.
    #[error("{word} needs something behind it")]
    Nothing {
        /// Which.
        word: &'static str,
    },
    /// A word of Dockerfiles that is not one of recipes.
    #[error("{word} is not possible: {instead}")]
    Refused {
        /// Which.
        word: &'static str,
        /// What to do.
        instead: &'static str,
    },
    /// `FROM` elsewhere than in front.
    #[error("FROM must be the first step, and the only FROM")]
    LateFrom,
    /// `FROM` with more than a name.
    #[error("FROM takes one name: stages and platforms are not possible")]
    From,
    /// `FROM` with what is no name.
    #[error("{name:?} is no name of a template or an image")]
    BaseName {
        /// What was said.
        name: String,
    },
    /// An option that is not known.
    #[error("{word} knows no option {option:?}")]
    Option {
        /// Of which word.
        word: &'static str,
        /// What was said.
        option: String,
    },
    /// A limit in time that is none.
    #[error("{text:?} is no time limit: write 90s, 5m or 1h, one second to one day")]
    Timeout {
        /// What was said.
        text: String,
    },
    /// A command as a list of words.
    #[error("{word} takes a shell line, not a list in JSON or a document")]
    NotAShellLine {
        /// Of which word.
        word: &'static str,
    },
    /// A command that is too long to be run.
    #[error("a shell line may have at most {} bytes, without NUL", limits::COMMAND_BYTES / 2)]
    LongCommand,
    /// A variable's name that cannot be one.
    #[error("{name:?} is no variable's name: letters, digits and underscores, no digit first")]
    VariableName {
        /// What was said.
        name: String,
    },
    /// A variable without a value.
    #[error("{name:?} has no value: write NAME=VALUE")]
    NoValue {
        /// Its name.
        name: String,
    },
    /// Something is opened and not closed.
    #[error("{quote} is not closed")]
    OpenQuote {
        /// What.
        quote: char,
    },
    /// A substitution with rules.
    #[error("of variables only $NAME and ${{NAME}} are known")]
    Substitution,
    /// `COPY` with something else than words.
    #[error("COPY takes words, in quotes where they have spaces in them, not a list in JSON or a document")]
    NotWords,
    /// `COPY` with too little.
    #[error("COPY needs one or more sources and, last, where they go")]
    CopyWhat,
    /// Permissions that are none.
    #[error("{text:?} are no permissions: write them as up to four octal digits, as in --chmod=755")]
    Mode {
        /// What was said.
        text: String,
    },
    /// The name of an archive that cannot be one.
    #[error("{text:?} is not the name of an archive of files")]
    FilesName {
        /// What was said.
        text: String,
    },
    /// `USER` with a group.
    #[error("USER takes the name of a user, without a group")]
    Group,
}

impl FromStr for Recipe {
    type Err = RecipeError;

    fn from_str(text: &str) -> Result<Self, RecipeError> {
        let mut recipe = Self { from: None, steps: Vec::new() };
        for (line, logical) in logical_lines(text) {
            let at = |fault| RecipeError { line, fault };
            match instruction(&logical).map_err(at)? {
                Instruction::From(origin) if recipe.from.is_none() && recipe.steps.is_empty() => {
                    recipe.from = Some(origin);
                }
                Instruction::From(_) => return Err(at(RecipeFault::LateFrom)),
                Instruction::Step(_) if recipe.steps.len() == MAX_STEPS => {
                    return Err(at(RecipeFault::TooLong));
                }
                Instruction::Step(step) => recipe.steps.push(step),
                Instruction::PassedOver => {}
            }
        }
        if recipe.steps.is_empty() {
            return Err(RecipeError { line: 1, fault: RecipeFault::Empty });
        }
        Ok(recipe)
    }
}

/// What one logical line says.
enum Instruction {
    From(Origin),
    Step(Step),
    PassedOver,
}

/// The lines with something in them, each with those that it goes on in, and the number of its first.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, raw) in text.lines().enumerate() {
        let line = raw.trim();
        // Between the lines of one step, too: that is where Dockerfiles have them.
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (number, mut whole) = open.take().unwrap_or((index + 1, String::new()));
        match ends_in_continuation(line) {
            Some(rest) => {
                whole.push_str(rest);
                open = Some((number, whole));
            }
            None => {
                whole.push_str(line);
                found.push((number, whole));
            }
        }
    }
    found.extend(open);
    for (_, line) in &mut found {
        *line = line.trim().to_owned();
    }
    found.retain(|(_, line)| !line.is_empty());
    found
}

/// The line without its last backslash, where that stands for itself.
fn ends_in_continuation(line: &str) -> Option<&str> {
    let backslashes = line.len() - line.trim_end_matches('\\').len();
    if backslashes % 2 == 1 { line.strip_suffix('\\') } else { None }
}

fn instruction(line: &str) -> Result<Instruction, RecipeFault> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    if let Some((word, instead)) = REFUSED.iter().find(|(refused, _)| *refused == word) {
        return Err(RecipeFault::Refused { word, instead });
    }
    let step = match word {
        "FROM" => return from(rest).map(Instruction::From),
        "EXPOSE" | "LABEL" | "MAINTAINER" => return Ok(Instruction::PassedOver),
        "RUN" => run(rest)?,
        "START" => Step::Start { command: command("START", rest)? },
        "ENV" => env(rest)?,
        "WORKDIR" => Step::Workdir { path: word_of("WORKDIR", rest)? },
        "USER" => user(rest)?,
        "COPY" => copy(rest)?,
        _ => Step::Run { command: command("RUN", line)?, timeout: None, user: None },
    };
    Ok(Instruction::Step(step))
}

fn from(rest: &str) -> Result<Origin, RecipeFault> {
    if rest.is_empty() {
        return Err(RecipeFault::Nothing { word: "FROM" });
    }
    if rest.contains(char::is_whitespace) || rest.starts_with("--") || rest.contains('$') {
        return Err(RecipeFault::From);
    }
    let wrong = || RecipeFault::BaseName { name: rest.to_owned() };
    if let Some(name) = rest.strip_prefix("template:") {
        return name.parse().map(Origin::Template).map_err(|_| wrong());
    }
    if Origin::is_path(rest) && rest.len() <= limits::PATH_BYTES {
        return Ok(Origin::Archive(rest.to_owned()));
    }
    // A template's name has neither slash nor colon; whether there is one of the name is not known here.
    match rest.parse() {
        Ok(name) => Ok(Origin::Named(name)),
        Err(_) if rest.len() <= IMAGE_BYTES && rest.contains(['/', ':', '@']) => {
            Ok(Origin::Image(rest.to_owned()))
        }
        Err(_) => Err(wrong()),
    }
}

fn run(rest: &str) -> Result<Step, RecipeFault> {
    let (mut line, mut timeout, mut user) = (rest, None, None);
    while let Some(options) = line.strip_prefix("--") {
        let (option, after) = options.split_once(char::is_whitespace).unwrap_or((options, ""));
        match option.split_once('=') {
            Some(("timeout", limit)) if timeout.is_none() => timeout = Some(time_limit(limit)?),
            Some(("user", name)) if user.is_none() && is_user(name) => user = Some(name.to_owned()),
            _ => return Err(RecipeFault::Option { word: "RUN", option: format!("--{option}") }),
        }
        line = after.trim_start();
    }
    Ok(Step::Run { command: command("RUN", line)?, timeout, user })
}

/// A user as an option names one: nothing in it that is quoted or replaced.
fn is_user(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// A shell line. One that begins like an option would be taken for one when it is read again.
fn command(word: &'static str, line: &str) -> Result<String, RecipeFault> {
    if line.is_empty() {
        return Err(RecipeFault::Nothing { word });
    }
    if line.starts_with("--") {
        let option = line.split_whitespace().next().unwrap_or_default().to_owned();
        return Err(RecipeFault::Option { word, option });
    }
    if line.starts_with("<<") || (line.starts_with('[') && line.ends_with(']') && line.contains('"')) {
        return Err(RecipeFault::NotAShellLine { word });
    }
    if line.len() > limits::COMMAND_BYTES / 2 || line.contains('\0') {
        return Err(RecipeFault::LongCommand);
    }
    Ok(line.to_owned())
}

/// `90`, `90s`, `5m`, `1h`.
fn time_limit(text: &str) -> Result<Duration, RecipeFault> {
    let wrong = || RecipeFault::Timeout { text: text.to_owned() };
    let (digits, unit) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(digits) => (digits, &text[digits.len()..]),
        None => (text, "s"),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "h" => number.checked_mul(3600),
        "m" => number.checked_mul(60),
        _ => Some(number),
    };
    let limit = seconds.map(Duration::from_secs).filter(|limit| !limit.is_zero() && *limit <= MAX_TIMEOUT);
    limit.ok_or_else(wrong)
}

/// `NAME=VALUE ...`, or `NAME VALUE WITH SPACES`.
fn env(rest: &str) -> Result<Step, RecipeFault> {
    if rest.is_empty() {
        return Err(RecipeFault::Nothing { word: "ENV" });
    }
    let (first, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let variables = match first.contains('=') {
        true => assignments(rest)?,
        false if value.trim().is_empty() => return Err(RecipeFault::NoValue { name: first.to_owned() }),
        false => vec![(checked_name(first.to_owned())?, Value::whole(value.trim())?)],
    };
    Ok(Step::Env { variables })
}

fn word_of(word: &'static str, rest: &str) -> Result<Value, RecipeFault> {
    let value = Value::whole(rest)?;
    if value.is_empty() { Err(RecipeFault::Nothing { word }) } else { Ok(value) }
}

fn user(rest: &str) -> Result<Step, RecipeFault> {
    if rest.contains(':') {
        return Err(RecipeFault::Group);
    }
    Ok(Step::User { name: word_of("USER", rest)? })
}

/// `COPY [--files=NAME] [--chown=USER[:GROUP]] [--chmod=MODE] SOURCE... DEST`.
fn copy(rest: &str) -> Result<Step, RecipeFault> {
    let (mut files, mut owner, mut mode) = (None, None, None);
    let mut rest = rest;
    while let Some(option) = rest.strip_prefix("--") {
        // Options' values have no spaces but in quotes.
        let (word, behind) = super::value::first_word(option)?;
        let known = |name: &str| word.strip_prefix(name);
        if let Some(text) = known("files=") {
            let name: Result<FilesName, _> = text.parse();
            files = Some(name.map_err(|_| RecipeFault::FilesName { text: text.to_owned() })?);
        } else if let Some(text) = known("chmod=") {
            let is_octal =
                (1..=4).contains(&text.len()) && text.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
            let parsed = u32::from_str_radix(text, 8).ok().filter(|_| is_octal);
            mode = Some(parsed.ok_or_else(|| RecipeFault::Mode { text: text.to_owned() })?);
        } else if let Some(text) = known("chown=") {
            owner = Some(word_of("--chown", text)?);
        } else {
            let name = word.split('=').next().unwrap_or_default();
            return Err(RecipeFault::Option { word: "COPY", option: format!("--{name}") });
        }
        rest = behind.trim_start();
    }
    if rest.starts_with("<<") || rest.starts_with('[') {
        return Err(RecipeFault::NotWords);
    }
    let mut sources = words(rest)?;
    let dest = sources.pop().filter(|dest| !dest.is_empty()).ok_or(RecipeFault::CopyWhat)?;
    if sources.is_empty() || sources.iter().any(Value::is_empty) {
        return Err(RecipeFault::CopyWhat);
    }
    Ok(Step::Copy { files, sources, dest, owner, mode })
}
