//! Users and groups, read from `/etc/passwd` and `/etc/group`.
//!
//! By hand, not through NSS: a static glibc would load the image's NSS modules at run time, which may be of any version,
//! or of another libc.

use std::fs;
use std::io;
use std::path::PathBuf;

/// One line of `/etc/passwd`, with the groups that `/etc/group` adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its id.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
    /// Every group it is in, the primary one included.
    pub groups: Vec<u32>,
    /// Its home folder.
    pub home: PathBuf,
    /// Its shell.
    pub shell: String,
}

/// A user could not be found.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No such user. The text is what E2B's clients match.
    #[error("invalid username: '{0}'")]
    Unknown(String),
    /// The files cannot be read.
    #[error("cannot read {file}")]
    Read {
        /// Which file.
        file: &'static str,
        /// Why.
        source: io::Error,
    },
}

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

impl User {
    /// Finds a user by name.
    ///
    /// # Errors
    /// If there is none, or the files cannot be read.
    pub fn by_name(name: &str) -> Result<Self, UserError> {
        let passwd = read(PASSWD)?;
        // An image without groups still has users.
        let group = fs::read_to_string(GROUP).unwrap_or_default();
        parse_user(&passwd, &group, name).ok_or_else(|| UserError::Unknown(name.to_owned()))
    }
}

/// Whose files are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user's id.
    pub uid: u32,
    /// The group's.
    pub gid: u32,
}

impl Owner {
    /// Reads `USER[:GROUP]`, each a name or a number. Without a group it is the user's, or the one of the same number where nobody has the number.
    /// None where there is no such user or group.
    #[must_use]
    pub fn find(text: &str) -> Option<Self> {
        // Numbers need no names, and images may have none.
        let passwd = fs::read_to_string(PASSWD).unwrap_or_default();
        let group = fs::read_to_string(GROUP).unwrap_or_default();
        parse_owner(&passwd, &group, text)
    }
}

fn parse_owner(passwd: &str, groups: &str, text: &str) -> Option<Owner> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    // The largest number means "no change" to the system.
    let number = |text: &str| text.parse::<u32>().ok().filter(|id| *id != u32::MAX);
    let field = |line: &str, index| line.split(':').nth(index).and_then(number);
    let user_line = passwd.lines().find(|line| match number(user) {
        Some(uid) => field(line, 2) == Some(uid),
        None => !user.is_empty() && line.split(':').next() == Some(user),
    });
    let uid = number(user).or_else(|| field(user_line?, 2))?;
    let gid = match group {
        None => user_line.map_or(Some(uid), |line| field(line, 3))?,
        Some(group) => {
            let named = |line: &&str| !group.is_empty() && line.split(':').next() == Some(group);
            number(group).or_else(|| field(groups.lines().find(named)?, 2))?
        }
    };
    Some(Owner { uid, gid })
}

/// The names that belong to ids, for listings. Read once per listing, not once per entry.
#[derive(Debug, Default)]
pub struct Names {
    passwd: String,
    group: String,
}

impl Names {
    /// Reads both files; a missing one has no names.
    pub fn read() -> Self {
        Self {
            passwd: fs::read_to_string(PASSWD).unwrap_or_default(),
            group: fs::read_to_string(GROUP).unwrap_or_default(),
        }
    }

    /// The user's name, or the id where it has none.
    pub fn user(&self, uid: u32) -> String {
        name_of(&self.passwd, uid)
    }

    /// The group's name, or the id where it has none.
    pub fn group(&self, gid: u32) -> String {
        name_of(&self.group, gid)
    }
}

/// Both files have the name first and the id third.
fn name_of(file: &str, id: u32) -> String {
    let id = id.to_string();
    file.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == id).then_some(name)
        })
        .next()
        .map_or(id.clone(), str::to_owned)
}

fn read(file: &'static str) -> Result<String, UserError> {
    fs::read_to_string(file).map_err(|source| UserError::Read { file, source })
}

fn parse_user(passwd: &str, group: &str, name: &str) -> Option<User> {
    if name.is_empty() {
        return None;
    }
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    let uid = fields.next()?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1)?;
    let shell = fields.next().unwrap_or_default();
    Some(User {
        name: name.to_owned(),
        uid,
        gid,
        groups: groups_of(group, name, gid),
        home: PathBuf::from(if home.is_empty() { "/" } else { home }),
        shell: if shell.is_empty() { "/bin/sh" } else { shell }.to_owned(),
    })
}

fn groups_of(group: &str, name: &str, primary: u32) -> Vec<u32> {
    let mut groups = vec![primary];
    for line in group.lines() {
        let mut fields = line.split(':').skip(2);
        let Some(gid) = fields.next().and_then(|gid| gid.parse().ok()) else { continue };
        let is_member =
            fields.next().is_some_and(|members| members.split(',').any(|member| member.trim() == name));
        if is_member && !groups.contains(&gid) {
            groups.push(gid);
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nuser:x:1000:1000:,,,:/home/user:/bin/bash\n\
                          bare:x:7:8::\nbroken:x:notanumber:1::/:\n";
    const GROUP: &str = "root:x:0:\nsudo:x:27:user,other\nuser:x:1000:\nadm:x:4:other,user\nodd\n";

    #[test]
    fn an_owner_is_a_user_and_perhaps_a_group_by_names_or_numbers() {
        let owner = |text: &str| parse_owner(PASSWD, GROUP, text).map(|owner| (owner.uid, owner.gid));
        for (text, is) in [
            ("user", (1000, 1000)),
            ("bare", (7, 8)),
            ("7", (7, 8)),
            ("55", (55, 55)),
            ("user:sudo", (1000, 27)),
            ("0:4", (0, 4)),
            ("55:adm", (55, 4)),
        ] {
            assert_eq!(owner(text), Some(is), "{text}");
        }
        for bad in ["", ":", "nobody", "user:", "user:nothing", "broken", "4294967295", "-1", "user:sudo:x"] {
            assert_eq!(owner(bad), None, "{bad}");
        }
    }

    #[test]
    fn finds_the_user_and_all_its_groups() {
        let user = parse_user(PASSWD, GROUP, "user").unwrap();
        assert_eq!(
            (user.uid, user.gid, user.home.to_str(), user.shell.as_str()),
            (1000, 1000, Some("/home/user"), "/bin/bash")
        );
        assert_eq!(user.groups, [1000, 27, 4]);
        assert_eq!(parse_user(PASSWD, GROUP, "root").unwrap().groups, [0]);
    }

    #[test]
    fn what_is_missing_has_a_default() {
        let bare = parse_user(PASSWD, "", "bare").unwrap();
        assert_eq!((bare.home.to_str(), bare.shell.as_str(), bare.groups), (Some("/"), "/bin/sh", vec![8]));
    }

    #[test]
    fn unknown_and_broken_users_do_not_exist() {
        for name in ["nobody-here", "", "broken", "us", "user:x", "root\n"] {
            assert_eq!(parse_user(PASSWD, GROUP, name), None, "{name:?}");
        }
    }

    #[test]
    fn ids_without_a_name_stay_ids() {
        let names = Names { passwd: PASSWD.into(), group: GROUP.into() };
        assert_eq!((names.user(1000), names.user(42)), ("user".into(), "42".into()));
        assert_eq!((names.group(27), names.group(43)), ("sudo".into(), "43".into()));
    }
}
