//! One thread's file accesses made with the rights of a user.

use std::marker::PhantomData;

use rustix::process::{Gid, getegid, geteuid, getgroups};
use rustix::thread::set_thread_groups;

use crate::users::User;

/// While it lives, the kernel checks this thread's accesses to files against the user. Only for threads that may block, and
/// only for work that does not leave the thread.
pub(super) struct ActingAs {
    /// What to go back to. `None`: nothing was changed.
    before: Option<Vec<Gid>>,
    /// Not to be sent to another thread.
    _thread: PhantomData<*const ()>,
}

impl ActingAs {
    /// Becomes the user. Fails where the agent is not root and the user is somebody else.
    pub(super) fn enter(user: &User) -> std::io::Result<Self> {
        if user.uid == geteuid().as_raw() {
            return Ok(Self { before: None, _thread: PhantomData });
        }
        let before = getgroups()?;
        let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        set_thread_groups(&groups)?;
        let acting = Self { before: Some(before), _thread: PhantomData };
        set_file_ids(user.uid, user.gid);
        Ok(acting)
    }
}

impl Drop for ActingAs {
    fn drop(&mut self) {
        let Some(before) = &self.before else { return };
        set_file_ids(geteuid().as_raw(), getegid().as_raw());
        if let Err(error) = set_thread_groups(before) {
            // The thread goes back to a pool: with the wrong groups it would do the wrong thing for the next one.
            tracing::error!(%error, "cannot take a thread's groups back");
            std::process::abort();
        }
    }
}

fn set_file_ids(uid: u32, gid: u32) {
    // SAFETY: both change ids of the calling thread and touch no memory. They cannot fail for a thread that is root
    // otherwise, which becoming somebody (`set_thread_groups`) has shown it to be, nor back to the thread's own ids.
    unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown};

    /// Needs root, as the tests of this package do.
    #[test]
    fn the_users_rights_are_the_threads_until_the_end() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (mine, shared) = (dir.path().join("mine"), dir.path().join("shared"));
        for (path, mode) in [(&mine, 0o600), (&shared, 0o640)] {
            fs::write(path, "x").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        chown(&shared, None, Some(54_321)).unwrap();
        let nobody = User::by_name("nobody").unwrap();
        let member = User { groups: vec![nobody.gid, 54_321], ..nobody.clone() };

        let groups = getgroups().unwrap();
        let acting = ActingAs::enter(&nobody).unwrap();
        assert!(fs::read(&mine).is_err() && fs::read(&shared).is_err());
        drop(acting);
        let acting = ActingAs::enter(&member).unwrap();
        assert!(fs::read(&mine).is_err() && fs::read(&shared).is_ok());
        drop(acting);
        assert!(fs::read(&mine).is_ok() && fs::write(&shared, "y").is_ok());
        assert_eq!(getgroups().unwrap(), groups);
        let other = std::thread::spawn(move || fs::read(mine).is_ok());
        assert!(other.join().unwrap());
    }
}
