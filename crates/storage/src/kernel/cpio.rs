//! Writing initramfs archives: the `newc` format of cpio, as the kernel reads it (Documentation/driver-api/early-userspace/buffer-format).

/// A member's header: six digits of magic and thirteen fields of eight hexadecimal digits.
const HEADER: usize = 110;
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// Members without an end mark: pieces of an archive can be joined.
#[derive(Debug, Default)]
pub(crate) struct Members {
    bytes: Vec<u8>,
    count: u32,
}

impl Members {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn folder(&mut self, name: &str, mode: u32) {
        self.push(name, FOLDER | mode, (0, 0), &[]);
    }

    pub(crate) fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.push(name, FILE | mode, (0, 0), content);
    }

    pub(crate) fn character_device(&mut self, name: &str, mode: u32, numbers: (u32, u32)) {
        self.push(name, CHARACTER_DEVICE | mode, numbers, &[]);
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The archive of these members and, after them, those of `more`, which another `Members` wrote.
    pub(crate) fn into_archive(mut self, more: &[u8]) -> Vec<u8> {
        self.bytes.extend_from_slice(more);
        self.push("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    /// Everything belongs to root and is of no date: the same members make the same bytes.
    fn push(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.count += 1;
        let links = 1;
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let (major, minor) = device;
        // inode, mode, uid, gid, links, mtime, size, device and node's device by major and minor, size of the name, no checksum.
        let fields = [self.count, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0];
        self.bytes.reserve(HEADER + name.len() + content.len() + 8);
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn cpio(args: &[&str], dir: &std::path::Path, archive: &[u8]) -> String {
        let mut command = Command::new("cpio");
        let command = command.args(args).current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().expect("cpio is installed");
        child.stdin.take().unwrap().write_all(archive).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn another_reader_finds_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut tail = Members::new();
        tail.folder("modules", 0o755);
        let contents: Vec<Vec<u8>> = (0..9).map(|n| vec![n; usize::from(n) * 37]).collect();
        for (n, content) in contents.iter().enumerate() {
            tail.file(&format!("modules/{}.ko", "m".repeat(n + 1)), 0o644, content);
        }
        let mut head = Members::new();
        head.folder("dev", 0o755);
        head.character_device("dev/console", 0o600, (5, 1));
        head.file("init", 0o755, b"#!");
        let archive = head.into_archive(&tail.into_bytes());

        let listed = cpio(&["-t", "--quiet"], dir.path(), &archive);
        let mut expected = vec!["dev".to_owned(), "dev/console".into(), "init".into(), "modules".into()];
        expected.extend((1..10).map(|n| format!("modules/{}.ko", "m".repeat(n))));
        assert_eq!(listed.lines().collect::<Vec<_>>(), expected);
        assert!(cpio(&["-tv", "--quiet"], dir.path(), &archive).contains("5,   1"));

        cpio(&["-i", "--quiet", "init", "modules", "modules/*"], dir.path(), &archive);
        assert_eq!(std::fs::read(dir.path().join("init")).unwrap(), b"#!");
        for (n, content) in contents.iter().enumerate() {
            assert_eq!(
                &std::fs::read(dir.path().join(format!("modules/{}.ko", "m".repeat(n + 1)))).unwrap(),
                content
            );
        }
    }
}
