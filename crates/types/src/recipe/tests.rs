//! What recipes say and what they do not: by example, and for all texts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Recipe {
    text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn refused(text: &str) -> (usize, RecipeFault) {
    let RecipeError { line, fault } = text.parse::<Recipe>().expect_err(text);
    (line, fault)
}

fn run(command: &str) -> Step {
    Step::Run { command: command.to_owned(), timeout: None, user: None }
}

#[test]
fn a_dockerfile_of_the_subset_is_read_as_it_is() {
    let recipe = parse(
        "# syntax=docker/dockerfile:1\n\
         FROM base\n\
         LABEL a=b\n\
         \n\
         RUN apt-get update && \\\n\
         # between the lines\n\
         \x20   apt-get install -y git\n\
         ENV A=1 B=\"two words\" C='$A' D=$A/x\n\
         ENV LONG a b  c\n\
         EXPOSE 80\n\
         WORKDIR /srv\n\
         WORKDIR app\n\
         USER app\n\
         RUN --timeout=5m --user=app make\n\
         echo bare | tr a b\n\
         START server --port 80\n",
    );
    assert_eq!(recipe.from, Some(Origin::Named("base".parse().unwrap())));
    let mut state = State::new(Dialect::Recipe, Defaults::default());
    assert_eq!((state.user(), state.workdir()), ("root", Some("/")));
    let actions: Vec<Action> = recipe.steps.iter().map(|step| state.take(step)).collect();
    let line = |command: &str| Action::Run { command: command.to_owned(), timeout: None, user: None };
    let folder = |path: &str| Action::MakeFolder { path: path.to_owned(), owner: "root".to_owned() };
    assert_eq!(
        actions,
        [
            line("apt-get update && apt-get install -y git"),
            Action::None,
            Action::None,
            folder("/srv"),
            folder("/srv/app"),
            Action::None,
            Action::Run {
                command: "make".to_owned(),
                timeout: Some(Duration::from_secs(300)),
                user: Some("app".to_owned()),
            },
            line("echo bare | tr a b"),
            Action::Start { command: "server --port 80".to_owned() },
        ]
    );
    let env = [("A", "1"), ("B", "two words"), ("C", "$A"), ("D", "1/x"), ("LONG", "a b  c")];
    let env: BTreeMap<String, String> = env.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let defaults = state.into_defaults();
    assert_eq!(defaults.env, env);
    assert_eq!((defaults.workdir.as_deref(), defaults.user.as_deref()), (Some("/srv/app"), Some("app")));
}

#[test]
fn a_path_may_be_made_longer_though_nobody_has_set_it() {
    let mut state = State::new(Dialect::Recipe, Defaults::default());
    for step in parse("ENV PATH=/opt/bin:$PATH NONE=[$UNKNOWN]").steps {
        state.take(&step);
    }
    assert!(state.env()["PATH"].starts_with("/opt/bin:/usr/local/sbin:"));
    assert_eq!(state.env()["NONE"], "[]");
}

#[test]
fn a_copy_has_words_and_finds_folder_and_user_as_they_are() {
    let recipe = parse(
        "ENV D=docs\nCOPY --chown=a:b --chmod=640 $D/* \"two words\" dest/\nWORKDIR /srv\nUSER app\nCOPY . .\nCOPY a /b",
    );
    let mut state = State::new(Dialect::Recipe, Defaults::default());
    let copies: Vec<Action> = recipe.steps.iter().map(|step| state.take(step)).collect();
    let copy = |sources: &[&str], dest: &str, owner: &str, mode| Action::Copy {
        files: None,
        sources: sources.iter().map(|source| (*source).to_owned()).collect(),
        dest: dest.to_owned(),
        owner: owner.to_owned(),
        mode,
    };
    assert_eq!(copies[1], copy(&["docs/*", "two words"], "/dest/", "a:b", Some(0o640)));
    assert_eq!(copies[4], copy(&["."], "/srv/", "app", None));
    assert_eq!(copies[5], copy(&["a"], "/b", "app", None));

    let (mine, other) = (FilesName::Content([7; 32]), FilesName::Client([8; 32]));
    assert_eq!(recipe.files(), (BTreeSet::new(), false));
    let named = parse(&format!("COPY --files={other} a b\nCOPY a b")).with_files(Some(mine));
    assert_eq!(named.files(), (BTreeSet::from([mine, other]), true));
    assert_eq!(named.to_string().parse(), Ok(named));
    for name in [mine, other] {
        assert_eq!(name.to_string().parse(), Ok(name));
    }
    for bad in ["", "client:", "AB", &"A".repeat(64), &"é".repeat(32), &"0".repeat(65)] {
        assert!(bad.parse::<FilesName>().is_err(), "{bad}");
    }
}

#[test]
fn where_it_starts_from_is_a_template_or_an_image() {
    let from = |text: &str| parse(&format!("FROM {text}\nRUN true")).from.unwrap();
    assert_eq!(from("template:work-1.0"), Origin::Template("work-1.0".parse().unwrap()));
    assert_eq!(from("python"), Origin::Named("python".parse().unwrap()));
    for image in ["debian:12", "ghcr.io/a/b@sha256:00", "library/redis"] {
        assert_eq!(from(image), Origin::Image(image.to_owned()));
    }
    for path in ["./image.tar", "../images/a.tar", "/srv/image"] {
        assert_eq!(from(path), Origin::Archive(path.to_owned()));
    }
}

#[test]
fn what_cannot_be_done_is_refused_with_its_line() {
    assert_eq!(refused("").1, RecipeFault::Empty);
    assert_eq!(refused("# only\nFROM base\n").1, RecipeFault::Empty);
    assert_eq!(refused("RUN a\n\nFROM base"), (3, RecipeFault::LateFrom));
    assert_eq!(refused("FROM base\nFROM base\nRUN a"), (2, RecipeFault::LateFrom));
    assert_eq!(refused("FROM base AS x\nRUN a"), (1, RecipeFault::From));
    assert!(matches!(refused("FROM template:a/b\nRUN a"), (1, RecipeFault::BaseName { .. })));
    // A step that goes on over lines is where it begins; those after it are where they are.
    assert!(matches!(refused("RUN a \\\n  b\nCMD x"), (3, RecipeFault::Refused { word: "CMD", .. })));
    assert!(matches!(refused("RUN a\nRUN --mount=x \\\n b"), (2, RecipeFault::Option { .. })));
    for word in ["ADD", "ARG", "CMD", "ENTRYPOINT", "HEALTHCHECK", "ONBUILD", "SHELL", "VOLUME"] {
        assert!(matches!(refused(&format!("{word} x")).1, RecipeFault::Refused { .. }), "{word}");
    }
    for limit in ["", "0", "x", "5d", "25h", "-1s", "99999999999999999999h"] {
        assert!(matches!(refused(&format!("RUN --timeout={limit} a")).1, RecipeFault::Timeout { .. }));
    }
    for option in ["--user=", "--user=a:b", "--user=$A", "--user=a --user=b", "--timeout=1 --timeout=2"] {
        assert!(matches!(refused(&format!("RUN {option} a")).1, RecipeFault::Option { .. }), "{option}");
    }
    for line in ["RUN", "START", "ENV", "WORKDIR", "USER", "FROM", "RUN --timeout=1s", "USER ''"] {
        assert!(matches!(refused(line).1, RecipeFault::Nothing { .. }), "{line}");
    }
    assert_eq!(refused("USER a:b").1, RecipeFault::Group);
    for line in ["COPY", "COPY a", "COPY a ''", "COPY '' a", "COPY --chmod=755 a"] {
        assert_eq!(refused(line).1, RecipeFault::CopyWhat, "{line}");
    }
    for mode in ["", "8", "u+x", "00755", "+7"] {
        assert!(matches!(refused(&format!("COPY --chmod={mode} a b")).1, RecipeFault::Mode { .. }), "{mode}");
    }
    for option in ["--from=x", "--link", "--chmod"] {
        assert!(matches!(refused(&format!("COPY {option} a b")).1, RecipeFault::Option { .. }), "{option}");
    }
    for line in ["COPY [\"a\", \"b\"]", "COPY <<EOF a"] {
        assert_eq!(refused(line).1, RecipeFault::NotWords);
    }
    assert!(matches!(refused("COPY --files=ab a b").1, RecipeFault::FilesName { .. }));
    assert!(matches!(refused("ENV A").1, RecipeFault::NoValue { .. }));
    assert!(matches!(refused("ENV A=1 B").1, RecipeFault::NoValue { .. }));
    assert!(matches!(refused("ENV 1A=1").1, RecipeFault::VariableName { .. }));
    assert_eq!(refused("ENV A=${B:-c}").1, RecipeFault::Substitution);
    assert_eq!(refused("ENV A=\"x").1, RecipeFault::OpenQuote { quote: '"' });
    for line in ["RUN [\"a\", \"b\"]", "RUN <<EOF"] {
        assert!(matches!(refused(line).1, RecipeFault::NotAShellLine { .. }), "{line}");
    }
    let many = "true\n".repeat(MAX_STEPS);
    assert_eq!(parse(&many).steps, vec![run("true"); MAX_STEPS]);
    assert_eq!(refused(&format!("{many}true")), (MAX_STEPS + 1, RecipeFault::TooLong));
}

fn name() -> impl Strategy<Value = String> {
    "[A-Za-z_][A-Za-z0-9_]{0,8}"
}

fn value() -> impl Strategy<Value = Value> {
    let part = prop_oneof![
        "[^\\n\\r\\x00\\x0b\\x0c\\x85\\u{2028}\\u{2029}]{0,12}".prop_map(Part::Text),
        name().prop_map(Part::Variable)
    ];
    vec(part, 0..5).prop_map(Value::new)
}

fn some_value() -> impl Strategy<Value = Value> {
    value().prop_filter("something", |value| !value.is_empty() && !value.to_string().contains(':'))
}

/// A shell line as one is kept: nothing around it, no option, no list.
fn command() -> impl Strategy<Value = String> {
    "[a-z./][^\\n\\r\\x00]{0,30}[a-z0-9;'\"$]"
}

fn step() -> impl Strategy<Value = Step> {
    let limit = option::of((1_u64..86_400).prop_map(Duration::from_secs));
    let run = (command(), limit, option::of("[a-z][a-z0-9_.-]{0,8}"));
    prop_oneof![
        run.prop_map(|(command, timeout, user)| Step::Run { command, timeout, user }),
        command().prop_map(|command| Step::Start { command }),
        vec((name(), value()), 1..4).prop_map(|variables| Step::Env { variables }),
        some_value().prop_map(|path| Step::Workdir { path }),
        some_value().prop_map(|name| Step::User { name }),
        (
            option::of(files_name()),
            vec(some_value(), 1..4),
            some_value(),
            option::of(some_value()),
            option::of(0_u32..=0o7777)
        )
            .prop_map(|(files, sources, dest, owner, mode)| Step::Copy {
                files,
                sources,
                dest,
                owner,
                mode
            }),
    ]
}

fn files_name() -> impl Strategy<Value = FilesName> {
    prop_oneof![any::<[u8; 32]>().prop_map(FilesName::Content), any::<[u8; 32]>().prop_map(FilesName::Client)]
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let base = prop_oneof![
        "[a-zA-Z0-9][a-z0-9._-]{0,20}".prop_map(|name| Origin::Template(name.parse().unwrap())),
        "[a-zA-Z0-9][a-z0-9._-]{0,20}".prop_map(|name| Origin::Named(name.parse().unwrap())),
        "[a-z]{1,8}/[a-z]{1,8}:[a-z0-9]{1,5}".prop_map(Origin::Image),
        r"(\./|\.\./|/)[a-z./]{1,20}".prop_map(Origin::Archive),
    ];
    (option::of(base), vec(step(), 1..10)).prop_map(|(from, steps)| Recipe { from, steps })
}

#[test]
fn a_base_is_a_template_or_an_image_and_its_text_says_which() {
    let name = "python".parse().unwrap();
    let image = Base::image_named(&name).unwrap();
    assert_eq!(image, Base::Image("python:latest".to_owned()));
    let reference = Base::Image("localhost:5000/a/b@sha256:00".to_owned());
    for base in [image, Base::Template(name), reference, Base::Archive([0xa7; 32])] {
        assert_eq!(base.to_string().parse(), Ok(base));
    }
    // What names an archive names no image of a registry.
    let archive = Base::Archive([0xa7; 32]).to_string();
    assert_eq!((Base::image(&archive), &archive[..18]), (None, "archive:sha256:a7a"));
    assert_eq!("archive:sha256:a7".parse::<Base>(), Err(UnknownBase));
    assert_eq!(Base::image_named(&"Mine".parse().unwrap()), None);
    assert_eq!("_".parse::<Base>(), Err(UnknownBase));
    assert!(matches!(refused("FROM _x\nRUN a"), (1, RecipeFault::BaseName { .. })));
    let long = format!("FROM a/{}\nRUN a", "a".repeat(600));
    assert!(matches!(refused(&long), (1, RecipeFault::BaseName { .. })));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_and_what_is_read_is_read_again(text in "(?s).{0,300}") {
        if let Ok(recipe) = text.parse::<Recipe>() {
            prop_assert_eq!(recipe.to_string().parse::<Recipe>(), Ok(recipe));
        }
    }

    #[test]
    fn nor_does_one_of_our_words(
        lines in vec("(RUN|START|ENV|WORKDIR|USER|COPY|COPY --chown=|COPY --chmod=|FROM|RUN --timeout=|#|)[ =\"'$\\\\{}a-z]{0,20}", 0..8),
    ) {
        if let Ok(recipe) = lines.join("\n").parse::<Recipe>() {
            prop_assert_eq!(recipe.to_string().parse::<Recipe>(), Ok(recipe));
        }
    }

    #[test]
    fn a_step_in_json_is_read_as_the_same(step in step()) {
        let json = serde_json::to_value(&step).unwrap();
        prop_assert_eq!(serde_json::from_value::<Step>(json).unwrap(), step);
    }

    #[test]
    fn what_is_printed_is_read_as_the_same(recipe in recipe()) {
        prop_assert_eq!(recipe.to_string().parse::<Recipe>(), Ok(recipe));
    }

    #[test]
    fn a_fault_is_told_with_the_line_that_its_step_begins_in(
        before in vec(prop_oneof!["\n", "# c\n", "true\n", "a \\\nb\n", "a \\\n# c\n\nb\n"], 0..20),
    ) {
        let before = before.concat();
        let error = format!("{before}CMD x \\\n y\nCMD z").parse::<Recipe>().unwrap_err();
        prop_assert_eq!(error.line, before.lines().count() + 1);
    }
}
