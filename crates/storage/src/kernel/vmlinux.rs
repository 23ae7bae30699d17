//! Taking the uncompressed kernel out of a boot image.
//!
//! VMMs load the ELF file itself, which under emulation starts 0.4 s sooner than a kernel that has to unpack itself.

use super::KernelError;
use super::compression::decompress;

const ELF: &[u8] = b"\x7fELF";
/// Where an uncompressed arm64 image says that it is one.
const ARM64_MAGIC_AT: usize = 0x38;
const ARM64_MAGIC: &[u8] = b"ARM\x64";

/// The kernel in the content of a `/boot/vmlinuz-*`: an ELF file on x86, an `Image` on arm64.
pub(super) fn extract(vmlinuz: &[u8]) -> Result<Vec<u8>, KernelError> {
    let payload = bzimage_payload(vmlinuz).unwrap_or(vmlinuz);
    let kernel = decompress(payload.to_vec())?;
    let is_arm64 = kernel.get(ARM64_MAGIC_AT..).is_some_and(|rest| rest.starts_with(ARM64_MAGIC));
    if kernel.starts_with(ELF) || is_arm64 { Ok(kernel) } else { Err(KernelError::BadKernel) }
}

/// The compressed kernel within an x86 boot image (Documentation/arch/x86/boot.rst), boot protocol 2.08 and later.
fn bzimage_payload(image: &[u8]) -> Option<&[u8]> {
    let number = |at: usize| {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    (image.get(0x202..0x206)? == b"HdrS").then_some(())?;
    let setup_sectors = match image.get(0x1f1)? {
        // What this meant before the field was there.
        0 => 4,
        &sectors => usize::from(sectors),
    };
    let start = ((setup_sectors + 1) * 512).checked_add(number(0x248)?)?;
    let payload = image.get(start..start.checked_add(number(0x24c)?)?)?;
    // The build appends the unpacked size to whatever does not tell it in the same way as gzip does; strict readers refuse that.
    if payload.starts_with(&[0x1f, 0x8b]) {
        Some(payload)
    } else {
        payload.get(..payload.len().checked_sub(4)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn garbage_is_no_kernel(mut bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
            if bytes.len() > 0x206 {
                bytes[0x202..0x206].copy_from_slice(b"HdrS");
            }
            prop_assert!(extract(&bytes).is_err());
        }
    }
}
