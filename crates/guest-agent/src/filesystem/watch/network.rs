//! Filesystems whose files change without this kernel's notice, or whose server decides how long a call takes.

use std::path::Path;

use rustix::fs::statfs;

/// As `statfs(2)` names them. FUSE is among them: what is behind it, and who answers, is not for us to know.
const MAGICS: [u32; 12] = [
    0x6969,      // NFS
    0x517b,      // SMB
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB 2
    0x6573_5546, // FUSE, virtiofs
    0x0102_1997, // 9p
    0x5346_414f, // AFS
    0x6b41_4653, // kAFS
    0x7375_7245, // Coda
    0x00c3_6400, // Ceph
    0x0bd0_0bd0, // Lustre
    0x564c,      // NCP
];

/// Whether a folder is on one of them.
pub(super) fn is_network(path: &Path) -> std::io::Result<bool> {
    let magic = statfs(path)?.f_type;
    // The field's type differs between architectures; the magic is its lower 32 bits.
    let magic = magic & 0xffff_ffff;
    Ok(MAGICS.iter().any(|network| i64::from(*network) == magic))
}
