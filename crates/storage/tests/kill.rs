//! SIGKILL at the worst moments. The process to be killed is this program again, with a role as its argument; parent and child tell
//! each other how far they are through pipes, so that nothing waits for a clock.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also outside of its test function")]

mod fixture;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use fixture::{Place, commit_one, fill, in_tmp, pause};
use libtest_mimic::{Arguments, Failed, Trial};
use sandbar_storage::{BaseImageOptions, DebianSource, build_base_image};
use sandbar_types::Id;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let [_, role, dir] = &args[..]
        && let Some(role) = role.strip_prefix("as:")
    {
        play(role, Path::new(dir));
        return ExitCode::SUCCESS;
    }
    let trial = |name: &str, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok::<(), Failed>(())
        })
    };
    let trials = vec![
        trial("a_killed_draft_is_swept_with_its_mounts", a_killed_draft_is_swept_with_its_mounts),
        trial("commits_are_whole_or_not_at_all", commits_are_whole_or_not_at_all),
        trial("pauses_are_whole_or_not_at_all", pauses_are_whole_or_not_at_all),
        trial("a_killed_build_leaves_no_process_and_no_mount", a_killed_build_leaves_no_process_and_no_mount),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// What the child does, until it is killed.
fn play(role: &str, dir: &Path) {
    let store = sandbar_storage::Store::open(dir, &fixture::options()).unwrap();
    let say = |line: &str| {
        println!("{line}");
        std::io::stdout().flush().unwrap();
    };
    match role {
        "draft" => {
            let draft = store.begin_template(Id::new(), 0).unwrap();
            fill(&draft, 1);
            fs::create_dir(draft.dir().join("mnt")).unwrap();
            let mounted =
                Command::new("mount").args(["-t", "tmpfs", "none"]).arg(draft.dir().join("mnt")).status();
            assert!(mounted.unwrap().success());
            say("ready");
            // Until the parent is done with us.
            let _ = std::io::stdin().read(&mut [0]);
        }
        "commit" => {
            for byte in 1..=u8::MAX {
                say(&commit_one(&store, byte).id().to_string());
            }
        }
        "pause" => {
            let template = commit_one(&store, 0);
            let id = Id::new();
            store.create_sandbox(id, &template.image().unwrap()).unwrap();
            say(&id.to_string());
            for byte in 1..=u8::MAX {
                pause(&store, id, byte);
                say(&byte.to_string());
                // Everything is rewritten, and may be cut as well.
                store.settle_paused(id, 0, &|| true).unwrap();
                store.wake_sandbox(id, &store.paused(id).unwrap().image().unwrap()).unwrap();
                store.rest_sandbox(id).unwrap();
            }
        }
        "build" => {
            let source = DebianSource::detect().unwrap();
            let options = BaseImageOptions::new(source);
            build_base_image(&store, &options, &|_: &str| {}).unwrap();
        }
        other => panic!("no role {other}"),
    }
}

fn start(role: &str, place: &Place, path: Option<&Path>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(format!("as:{role}")).arg(place.store_dir());
    if let Some(path) = path {
        command.env("PATH", format!("{}:{}", path.display(), std::env::var("PATH").unwrap()));
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn mounts_below(dir: &Path) -> usize {
    let dir = format!("{}/", dir.canonicalize().unwrap().display());
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|line| line.contains(&dir)).count()
}

fn a_killed_draft_is_swept_with_its_mounts() {
    let place = Place::new();
    let mut child = start("draft", &place, None);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    kill(child);
    assert_eq!(mounts_below(&place.store_dir()), 1, "the test needs a stray mount");

    let store = place.open();
    assert_eq!(mounts_below(&place.store_dir()), 0);
    assert!(store.templates().unwrap().is_empty());
    let [session] = &in_tmp(&place)[..] else { panic!("only our own session is left") };
    assert_eq!(fs::read_dir(session).unwrap().count(), 0);
}

fn commits_are_whole_or_not_at_all() {
    let place = Place::new();
    let _mounted = place.open();
    for acknowledged_before_the_kill in [1, 2, 5] {
        let mut child = start("commit", &place, None);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ids: Vec<String> = lines.take(acknowledged_before_the_kill).map(Result::unwrap).collect();
        // It is now somewhere within the next one.
        kill(child);

        let store = place.open();
        let templates = store.templates().unwrap();
        let folders = fs::read_dir(place.store_dir().join("templates")).unwrap().count();
        assert_eq!(folders, templates.len(), "none is damaged");
        for template in &templates {
            template.verify().unwrap();
        }
        for id in ids {
            store.template(id.parse().unwrap()).unwrap();
        }
        assert_eq!(in_tmp(&place).len(), 2);
        templates.iter().for_each(|template| store.delete_template(template.id()).unwrap());
    }
}

fn pauses_are_whole_or_not_at_all() {
    let place = Place::new();
    let _mounted = place.open();
    for acknowledged_before_the_kill in [0, 1, 2, 5, 9] {
        let mut child = start("pause", &place, None);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let id = lines.next().unwrap().parse().unwrap();
        let acknowledged: Vec<u8> =
            lines.take(acknowledged_before_the_kill).map(|line| line.parse().unwrap()).collect();
        // It is now somewhere within the next one, or in what follows the last.
        kill(child);

        let store = place.open();
        match (store.paused(id), acknowledged.last()) {
            (Ok(paused), last) => {
                store.verify_paused(id).unwrap();
                let image = paused.image().unwrap();
                let bytes = [image.disk, image.state, image.memory].map(|path| fs::read(path).unwrap()[0]);
                assert!(bytes.iter().all(|&byte| byte == bytes[0]), "files of two pauses: {bytes:?}");
                assert!(last.is_none_or(|&last| bytes[0] >= last), "an older one than was acknowledged");
            }
            (Err(sandbar_storage::StoreError::UnknownPause { .. }), None) => {}
            (Err(error), last) => panic!("{error} after {last:?}"),
        }
        store.remove_sandbox(id).unwrap();
        assert_eq!(in_tmp(&place).len(), 2);
    }
}

/// With a program in mmdebstrap's place that mounts something, starts a background process, and tells through a FIFO which all of
/// its processes hold open that it has: the FIFO ends when the last of them has.
fn a_killed_build_leaves_no_process_and_no_mount() {
    let place = Place::new();
    let _mounted = place.open();
    let bin = place.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let fifo = place.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let script = format!(
        "#!/bin/sh\nset -e\nexec 9>'{}'\nmkdir \"$TMPDIR/root\"\nmount -t tmpfs none \"$TMPDIR/root\"\n\
         setsid sleep 1000 &\necho mounted >&9\nwait\n",
        fifo.display()
    );
    fs::write(bin.join("mmdebstrap"), script).unwrap();
    fs::set_permissions(bin.join("mmdebstrap"), fs::Permissions::from_mode(0o755)).unwrap();

    let mut child = start("build", &place, Some(&bin));
    let mut output = child.stdout.take().unwrap();
    std::thread::spawn({
        let fifo = fifo.clone();
        move || {
            // Should the child end before its script has begun: whoever waits for that to open the FIFO waits no longer.
            output.read_to_end(&mut Vec::new()).unwrap();
            let _ = fs::File::options().read(true).write(true).open(&fifo);
        }
    });
    let mut told = BufReader::new(fs::File::open(&fifo).unwrap());
    let mut line = String::new();
    told.read_line(&mut line).unwrap();
    assert_eq!(line, "mounted\n");
    assert_eq!(mounts_below(&place.store_dir()), 0, "mounts of a build are its own");
    kill(child);
    assert_eq!(told.read_line(&mut line).unwrap(), 0, "its processes have ended with it");

    drop(place.open());
    assert_eq!(in_tmp(&place).len(), 1, "of what it was building nothing is left");
}
