//! What a snapshot asks of the host that restores it.

use std::fmt;

use sandbar_types::VmmKind;
use serde::{Deserialize, Serialize};

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor, through the kernel's KVM.
    Kvm,
    /// QEMU's translator: works anywhere, several times slower.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// The facts about a VMM and its host that a memory snapshot depends on. A snapshot keeps its maker's; a restore compares.
///
/// QEMU gives `microvm` no version and a state without its configuration no promise, and Firecracker's format of states changes between
/// releases, so the build has to be the same one, not just as new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compatibility {
    /// The VMM.
    pub vmm: VmmKind,
    /// The VMM's build, as it names itself (version and package).
    pub build: String,
    /// The machine type.
    pub machine: String,
    /// The processor model that the guest sees; with KVM it includes the host's own.
    pub cpu: String,
    /// What executes the guest.
    pub accelerator: Accelerator,
    /// Version of the list of devices and their order. Raised whenever the driver's command line changes what the guest sees.
    pub devices: u32,
    /// Rate of the time-stamp counter, which the guest took for granted when it booted. Measured, so compared with a tolerance.
    pub tsc_khz: u32,
}

/// How far two measurements of one counter may lie apart, in parts per million. Far above the error of a measurement, and the guest's
/// clock is set at every restore anyway; below the step between two processors' nominal rates.
const TSC_TOLERANCE_PPM: u64 = 2_000;

/// The first difference between what a snapshot needs and what a host has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot was made with {property} {needed:?}, this host has {available:?}")]
pub struct Mismatch {
    /// What differs, in words.
    pub property: &'static str,
    /// The snapshot's value.
    pub needed: String,
    /// The host's value.
    pub available: String,
}

impl Compatibility {
    /// Whether a snapshot that carries `self` can be restored by a VMM that has `host`.
    pub fn check(&self, host: &Self) -> Result<(), Mismatch> {
        let Self { vmm, build, machine, cpu, accelerator, devices, tsc_khz } = self;
        let same = |property, needed: &dyn fmt::Display, available: &dyn fmt::Display| {
            let (needed, available) = (needed.to_string(), available.to_string());
            if needed == available { Ok(()) } else { Err(Mismatch { property, needed, available }) }
        };
        same("the VMM", vmm, &host.vmm)?;
        same("VMM build", build, &host.build)?;
        same("accelerator", accelerator, &host.accelerator)?;
        same("machine type", machine, &host.machine)?;
        same("device list", devices, &host.devices)?;
        same("processor", cpu, &host.cpu)?;
        let apart = u64::from(tsc_khz.abs_diff(host.tsc_khz));
        if apart * 1_000_000 > u64::from(*tsc_khz) * TSC_TOLERANCE_PPM {
            return Err(Mismatch {
                property: "time-stamp counter rate in kHz",
                needed: tsc_khz.to_string(),
                available: host.tsc_khz.to_string(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Compatibility {
        Compatibility {
            vmm: VmmKind::Qemu,
            build: "10.0.2 (Debian 1:10.0.2+ds-2)".to_owned(),
            machine: "microvm".to_owned(),
            cpu: "max,la57=off".to_owned(),
            accelerator: Accelerator::Tcg,
            devices: 1,
            tsc_khz: 2_900_000,
        }
    }

    #[test]
    fn a_host_fits_itself_and_survives_storage() {
        let host = sample();
        host.check(&host).unwrap();
        let stored = serde_json::to_value(&host).unwrap();
        assert_eq!(stored["accelerator"], "tcg");
        assert_eq!(serde_json::from_value::<Compatibility>(stored).unwrap(), host);
    }

    #[test]
    fn every_property_is_compared_and_named() {
        type Case = (&'static str, fn(&mut Compatibility));
        let cases: [Case; 7] = [
            ("the VMM", |c| c.vmm = VmmKind::Firecracker),
            ("VMM build", |c| c.build.push('1')),
            ("accelerator", |c| c.accelerator = Accelerator::Kvm),
            ("machine type", |c| c.machine.push('x')),
            ("device list", |c| c.devices += 1),
            ("processor", |c| c.cpu = "host".to_owned()),
            ("time-stamp counter rate in kHz", |c| c.tsc_khz = 3_000_000),
        ];
        for (property, change) in cases {
            let mut host = sample();
            change(&mut host);
            assert_eq!(sample().check(&host).unwrap_err().property, property);
        }
        let text = {
            let mut host = sample();
            host.accelerator = Accelerator::Kvm;
            sample().check(&host).unwrap_err().to_string()
        };
        assert_eq!(text, r#"the snapshot was made with accelerator "tcg", this host has "kvm""#);
    }

    #[test]
    fn a_measurement_error_of_the_counter_is_no_difference() {
        let mut host = sample();
        host.tsc_khz += 1_000;
        sample().check(&host).unwrap();
    }
}
