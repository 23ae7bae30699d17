//! Words of a recipe: quoting, and variables in them.

use std::collections::BTreeMap;
use std::fmt;
use std::iter::Peekable;
use std::str::Chars;

use serde::{Deserialize, Serialize};

use super::parse::RecipeFault;

/// A word: text and variables, in order. Texts are never empty, nor beside each other.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Value(Vec<Part>);

/// A part of a word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// As it stands.
    Text(String),
    /// What the variable of this name is by then.
    Variable(String),
}

impl Value {
    /// A word of these parts.
    #[must_use]
    pub fn new(parts: impl IntoIterator<Item = Part>) -> Self {
        let mut value = Self::default();
        parts.into_iter().for_each(|part| value.push(part));
        value
    }

    fn push(&mut self, part: Part) {
        match (self.0.last_mut(), part) {
            (_, Part::Text(text)) if text.is_empty() => {}
            (Some(Part::Text(before)), Part::Text(text)) => before.push_str(&text),
            (_, part) => self.0.push(part),
        }
    }

    fn push_char(&mut self, char: char) {
        self.push(Part::Text(char.into()));
    }

    /// What it is where the variables are these. One that is not set is empty.
    #[must_use]
    pub fn resolve(&self, variables: &BTreeMap<String, String>) -> String {
        self.0
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.as_str(),
                Part::Variable(name) => variables.get(name).map_or("", String::as_str),
            })
            .collect()
    }

    /// What it is wherever it stands; none where that depends on variables.
    #[must_use]
    pub fn literal(&self) -> Option<String> {
        let is_literal = self.0.iter().all(|part| matches!(part, Part::Text(_)));
        is_literal.then(|| self.resolve(&BTreeMap::new()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of `text` as it stands, but for variables: `$NAME` and `${NAME}`; `\$` is a dollar sign.
    pub(super) fn expanding(text: &str) -> Self {
        let mut value = Self::default();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            let (before, from) = rest.split_at(at);
            if let Some(before) = before.strip_suffix('\\') {
                value.push(Part::Text(format!("{before}$")));
                rest = &from[1..];
                continue;
            }
            value.push(Part::Text(before.to_owned()));
            let mut chars = from[1..].chars().peekable();
            match variable(&mut chars) {
                Ok(part @ Part::Variable(_)) => {
                    value.push(part);
                    rest = &from[from.len() - chars.map(char::len_utf8).sum::<usize>()..];
                }
                // Nothing that we know: as it stands.
                Ok(Part::Text(_)) | Err(_) => {
                    value.push_char('$');
                    rest = &from[1..];
                }
            }
        }
        value.push(Part::Text(rest.to_owned()));
        value
    }

    /// Reads all of `text` as one word, spaces and all.
    pub(super) fn whole(text: &str) -> Result<Self, RecipeFault> {
        let mut chars = text.chars().peekable();
        read(&mut chars, |_| false)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for part in &self.0 {
            match part {
                Part::Text(text) => {
                    for char in text.chars() {
                        if matches!(char, '"' | '\\' | '$') {
                            f.write_str("\\")?;
                        }
                        write!(f, "{char}")?;
                    }
                }
                Part::Variable(name) => write!(f, "${{{name}}}")?,
            }
        }
        f.write_str("\"")
    }
}

/// `NAME=WORD NAME=WORD ...`.
pub(super) fn assignments(text: &str) -> Result<Vec<(String, Value)>, RecipeFault> {
    let mut chars = text.chars().peekable();
    let mut found = Vec::new();
    loop {
        while chars.next_if(|char| char.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(found);
        }
        let mut name = String::new();
        while let Some(char) = chars.next_if(|char| *char != '=' && !char.is_whitespace()) {
            name.push(char);
        }
        if chars.next() != Some('=') {
            return Err(RecipeFault::NoValue { name });
        }
        let value = read(&mut chars, char::is_whitespace)?;
        found.push((checked_name(name)?, value));
    }
}

/// Words with spaces between them.
pub(super) fn words(text: &str) -> Result<Vec<Value>, RecipeFault> {
    let mut chars = text.chars().peekable();
    let mut found = Vec::new();
    loop {
        while chars.next_if(|char| char.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(found);
        }
        found.push(read(&mut chars, char::is_whitespace)?);
    }
}

/// The first word as it stands, quotes and all, and what is behind it.
pub(super) fn first_word(text: &str) -> Result<(&str, &str), RecipeFault> {
    let mut chars = text.chars().peekable();
    read(&mut chars, char::is_whitespace)?;
    let behind: usize = chars.map(char::len_utf8).sum();
    Ok(text.split_at(text.len() - behind))
}

/// A variable's name, if it can be one.
pub(super) fn checked_name(name: String) -> Result<String, RecipeFault> {
    let mut chars = name.chars();
    let begins = chars.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
    if begins && chars.all(is_of_name) { Ok(name) } else { Err(RecipeFault::VariableName { name }) }
}

fn is_of_name(char: char) -> bool {
    char.is_ascii_alphanumeric() || char == '_'
}

/// A word up to where `ends`, outside of quotes, or to the end.
fn read(chars: &mut Peekable<Chars<'_>>, ends: impl Fn(char) -> bool) -> Result<Value, RecipeFault> {
    let mut value = Value::default();
    while let Some(char) = chars.next_if(|char| !ends(*char)) {
        match char {
            '\'' => loop {
                match chars.next().ok_or(RecipeFault::OpenQuote { quote: '\'' })? {
                    '\'' => break,
                    char => value.push_char(char),
                }
            },
            '"' => loop {
                match chars.next().ok_or(RecipeFault::OpenQuote { quote: '"' })? {
                    '"' => break,
                    '\\' => match chars.next() {
                        Some(char @ ('"' | '\\' | '$')) => value.push_char(char),
                        Some(char) => {
                            value.push_char('\\');
                            value.push_char(char);
                        }
                        None => return Err(RecipeFault::OpenQuote { quote: '"' }),
                    },
                    '$' => value.push(variable(chars)?),
                    char => value.push_char(char),
                }
            },
            '\\' => match chars.next() {
                Some(char) => value.push_char(char),
                None => value.push_char('\\'),
            },
            '$' => value.push(variable(chars)?),
            char => value.push_char(char),
        }
    }
    Ok(value)
}

/// What follows a dollar sign: a variable, or nothing that means one.
fn variable(chars: &mut Peekable<Chars<'_>>) -> Result<Part, RecipeFault> {
    let mut name = String::new();
    if chars.next_if_eq(&'{').is_some() {
        loop {
            match chars.next() {
                Some('}') => return checked_name(name).map(Part::Variable),
                Some(char) if is_of_name(char) => name.push(char),
                Some(_) => return Err(RecipeFault::Substitution),
                None => return Err(RecipeFault::OpenQuote { quote: '{' }),
            }
        }
    }
    match chars.peek() {
        Some(first) if first.is_ascii_alphabetic() || *first == '_' => {
            while let Some(char) = chars.next_if(|char| is_of_name(*char)) {
                name.push(char);
            }
            Ok(Part::Variable(name))
        }
        _ => Ok(Part::Text("$".to_owned())),
    }
}
