//! `.dockerignore`: which files are not sent. `*` and `?` are parts of names, `**` any number of folders, `!` begins an exception, and the last line
//! that matches decides.

use sandbar_types::recipe::name_matches;

/// See the module.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ignore(Vec<Rule>);

#[derive(Debug, PartialEq, Eq)]
struct Rule {
    names: Vec<String>,
    verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Out,
    In,
}

impl Ignore {
    pub(super) fn read(text: &str) -> Self {
        let rules = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let line = line.trim();
            let (pattern, verdict) = match line.strip_prefix('!') {
                Some(exception) => (exception.trim(), Verdict::In),
                None => (line, Verdict::Out),
            };
            let mut names: Vec<String> = Vec::new();
            for name in pattern.split('/') {
                match name {
                    "" | "." => {}
                    ".." => drop(names.pop()),
                    name => names.push(name.to_owned()),
                }
            }
            (!names.is_empty()).then_some(Rule { names, verdict })
        });
        Self(rules.collect())
    }

    /// Whether something below an ignored folder may be sent.
    pub(super) fn has_exceptions(&self) -> bool {
        self.0.iter().any(|rule| rule.verdict == Verdict::In)
    }

    /// Whether a path is ignored: by itself, or with a folder that it is in.
    pub(super) fn has(&self, path: &[&[u8]]) -> bool {
        let matching = |rule: &&Rule| (1..=path.len()).any(|end| matches(&rule.names, path.split_at(end).0));
        self.0.iter().rev().find(matching).is_some_and(|rule| rule.verdict == Verdict::Out)
    }
}

fn matches(names: &[String], path: &[&[u8]]) -> bool {
    match (names.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((name, rest)), _) if name == "**" => {
            matches(rest, path) || path.split_first().is_some_and(|(_, below)| matches(names, below))
        }
        (Some((name, rest)), Some((part, below))) => {
            name_matches(name.as_bytes(), part) && matches(rest, below)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_that_matches_decides() {
        let ignore = Ignore::read(
            "# a comment\n\n/target\n*.tmp\n**/node_modules\ndocs/**/*.md\n!docs/README.md\n!docs/a/b\n./x/../y/\n",
        );
        let has = |path: &str| ignore.has(&path.split('/').map(str::as_bytes).collect::<Vec<_>>());
        for out in [
            "target",
            "target/debug/a",
            "a.tmp",
            "node_modules",
            "a/b/node_modules/c",
            "docs/x.md",
            "docs/a/b.md",
            "y",
            "y/z",
        ] {
            assert!(has(out), "{out}");
        }
        for kept in [
            "a/target",
            "a/b.tmp",
            "docs",
            "docs/README.md",
            "docs/x.txt",
            "x",
            "node_modules2",
            "# a comment",
        ] {
            assert!(!has(kept), "{kept}");
        }
        assert!(ignore.has_exceptions() && !Ignore::read("a\n#!b").has_exceptions());
        assert_eq!(Ignore::read("\n/\n.\n!\n"), Ignore::default());
    }
}
