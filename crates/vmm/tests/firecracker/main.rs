//! The `firecracker` driver, held against a strict fake of Firecracker and its jailer, and where `SANDBAR_FIRECRACKER` names one
//! against the real ones. Needs root (users, namespaces, devices), binutils, iproute2.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod adoption;
mod cycle;
mod failures;
mod fake;
mod jail;
mod memory;
mod place;

use std::{path::PathBuf, process::ExitCode};

use libtest_mimic::{Arguments, Trial};
use place::{Binaries, Place};

/// A test: it gets a place of its own, with a fake.
macro_rules! tests {
    ($($module:ident :: $test:ident),* $(,)?) => {
        vec![$(trial(concat!(stringify!($module), "::", stringify!($test)), || {
            runtime().block_on($module::$test(Place::new(Binaries::Fake)));
        })),*]
    };
}

fn main() -> ExitCode {
    fake::run_if_named();
    let mut trials = tests![
        cycle::a_machine_boots_pauses_is_saved_and_goes_on,
        cycle::requests_are_the_published_ones_in_their_order,
        cycle::clones_go_on_from_one_snapshot_and_leave_it_as_it_is,
        memory::a_chain_of_saves_is_the_guests_memory_each_time,
        memory::a_booted_machine_is_saved_into_copies_and_runs_on,
        memory::what_the_guest_zeroed_is_zero,
        memory::a_refused_save_loses_no_changes,
        memory::after_a_save_that_was_cut_off_the_next_one_is_whole,
        memory::an_image_that_the_vmm_holds_is_refused,
        memory::a_state_that_is_a_link_is_refused,
        adoption::a_machine_outlives_its_handle_and_is_taken_over,
        adoption::a_machine_is_taken_over_where_its_folder_is_now,
        adoption::nobody_else_is_taken_over,
        adoption::a_machine_that_dies_is_noticed_by_all,
        adoption::what_has_no_machine_is_removed,
        jail::a_process_has_its_user_its_namespaces_and_its_files_alone,
        jail::its_disk_is_as_fast_as_it_may_be,
        failures::other_releases_are_refused_with_the_reason,
        failures::a_start_that_fails_says_why_and_leaves_nothing,
        failures::a_failing_jailer_says_why_and_leaves_nothing,
        failures::a_start_that_is_given_up_leaves_nothing,
        failures::what_a_machine_cannot_do_is_refused,
        failures::the_probe_boots_the_guest_by_firecracker,
    ];
    if let Some(firecracker) = std::env::var_os("SANDBAR_FIRECRACKER").map(PathBuf::from) {
        trials.push(trial("real::the_api_takes_a_whole_cycle", move || {
            runtime().block_on(cycle::the_api_takes_a_whole_cycle(Place::new(Binaries::real(&firecracker))));
        }));
    } else {
        eprintln!("SANDBAR_FIRECRACKER names no Firecracker: the driver is tested against the fake alone");
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial(name: &str, run: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        run();
        Ok(())
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
