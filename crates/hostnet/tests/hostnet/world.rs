//! A host of its own for each test: a network namespace with an uplink to a namespace that plays the rest of the world. The machine
//! that runs the tests is not touched but for names under `/run/netns`, which are removed even when a test fails.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    thread::{LinkNameSpaceType, UnshareFlags},
};
use sandbar_hostnet::{NetConfig, Slot, Tag};
use sandbar_types::guest::{GATEWAY_IP, GUEST_IP, GUEST_MAC, PREFIX_LEN};

/// The host's address on its uplink, and the other end's.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(93, 184, 0, 2);
pub(crate) const WORLD: Ipv4Addr = Ipv4Addr::new(93, 184, 0, 1);
/// Addresses of the world that no guest may reach.
pub(crate) const PRIVATE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
pub(crate) const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Addresses of the world that policies tell apart.
pub(crate) const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(93, 184, 0, 9);

/// Long for a packet that has three namespaces to cross on a busy machine, short for one that is dropped.
const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) struct World {
    pub(crate) tag: Tag,
    name: String,
}

impl World {
    /// Moves the calling thread into a new namespace, which is the host from then on: build the runtime on this thread.
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU16 = AtomicU16::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mark = (std::process::id() as u16).wrapping_mul(16).wrapping_add(number);
        let tag: Tag = format!("{mark:04x}").parse().unwrap();
        let name = format!("sbworld-{tag}");
        // SAFETY: the thread's network changes, nothing that Rust's rules are about.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        let world = Self { tag, name };
        let name = &world.name;
        run("ip", &["netns", "add", name]);
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["link", "add", "up0", "type", "veth", "peer", "name", "down0", "netns", name]);
        run("ip", &["addr", "add", &format!("{HOST}/24"), "dev", "up0"]);
        run("ip", &["link", "set", "up0", "up"]);
        run("ip", &["-n", name, "link", "set", "lo", "up"]);
        for address in [WORLD, ELSEWHERE, PRIVATE, METADATA] {
            run("ip", &["-n", name, "addr", "add", &format!("{address}/24"), "dev", "down0"]);
        }
        run("ip", &["-n", name, "link", "set", "down0", "up"]);
        run("ip", &["route", "add", "default", "via", &WORLD.to_string()]);
        world
    }

    /// A pool's configuration with this world's tag.
    pub(crate) fn config(&self, network: &str, pool_size: usize) -> NetConfig {
        NetConfig { pool_size, ..NetConfig::new(self.tag.clone(), network.parse().unwrap()) }
    }

    pub(crate) fn outside(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Everything of the tag on this host: namespaces, devices, tables.
    pub(crate) fn traces(&self) -> Vec<String> {
        let tag = self.tag.as_str();
        let mut traces: Vec<_> = namespaces(&format!("sb-{tag}-"));
        let devices = run("ip", &["-o", "link"]);
        traces.extend(devices.lines().filter(|line| line.contains(&format!("sb{tag}"))).map(str::to_owned));
        let tables = run("nft", &["list", "tables"]);
        traces.extend(tables.lines().filter(|line| line.contains(tag)).map(str::to_owned));
        traces
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in namespaces(&format!("sb-{}-", self.tag)) {
            let _ = Command::new("ip").args(["netns", "delete", &name]).output();
        }
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}

fn namespaces(prefix: &str) -> Vec<String> {
    let entries = fs::read_dir("/run/netns").unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(prefix)).collect()
}

/// Runs a program in the calling thread's namespace.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Does something in a namespace, on a thread of its own.
pub(crate) fn inside<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                enter(namespace);
                work()
            })
            .join()
            .unwrap()
    })
}

#[expect(clippy::disallowed_methods, reason = "only threads that `inside` made come here")]
fn enter(namespace: &Path) {
    let namespace = File::open(namespace).unwrap();
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

/// A guest: a namespace with the guest's address, plugged into the slot's TAP as a VMM would be.
pub(crate) struct Guest {
    name: String,
    stop: Arc<AtomicBool>,
    cable: Option<JoinHandle<()>>,
}

impl Guest {
    pub(crate) fn plug_into(slot: &Slot) -> Self {
        let name = format!("sbguest-{}", slot.netns.file_name().unwrap().to_str().unwrap());
        run("ip", &["netns", "add", &name]);
        let path = Path::new("/run/netns").join(&name);
        let card = inside(&path, || {
            let card = attach("eth0");
            let mac = GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":");
            run("ip", &["link", "set", "lo", "up"]);
            run("ip", &["link", "set", "eth0", "address", &mac]);
            run("ip", &["addr", "add", &format!("{GUEST_IP}/{PREFIX_LEN}"), "dev", "eth0"]);
            run("ip", &["link", "set", "eth0", "up"]);
            run("ip", &["route", "add", "default", "via", &GATEWAY_IP.to_string()]);
            card
        });
        let socket = inside(&slot.netns, || {
            let socket = attach(&slot.tap);
            // The kernel starts a device's queue some time after it was plugged in, and drops what is sent before. Asking for the
            // device makes it do so now; a virtual machine takes longer to start than that.
            run("ip", &["link", "show", &slot.tap]);
            socket
        });
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let cable = Some(thread::spawn(move || carry(&card, &socket, &stopped)));
        Self { name, stop, cable }
    }

    pub(crate) fn namespace(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.cable.take().map(JoinHandle::join);
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}

/// Opens a TAP of the calling thread's namespace, and makes it if it is not there.
fn attach(name: &str) -> File {
    let file = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TAP | libc::IFF_NO_PI).unwrap();
    // SAFETY: the request takes an `ifreq`, which lives through the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert!(result >= 0, "{name}: {}", io::Error::last_os_error());
    file
}

/// Carries frames both ways until told to stop.
fn carry(mut card: &File, mut socket: &File, stop: &AtomicBool) {
    let mut frame = [0; 65_536];
    let pause = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    while !stop.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(&card, PollFlags::IN), PollFd::new(&socket, PollFlags::IN)];
        poll(&mut ready, Some(&pause)).unwrap();
        let [from_card, from_socket] = ready.map(|end| end.revents().contains(PollFlags::IN));
        // A frame that the other side does not take is lost, as on any cable.
        if from_card {
            let length = card.read(&mut frame).unwrap();
            let _ = socket.write(&frame[..length]);
        }
        if from_socket {
            let length = socket.read(&mut frame).unwrap();
            let _ = card.write(&frame[..length]);
        }
    }
}

/// A listener in a namespace that tells each caller who it is taken for.
pub(crate) fn serve(namespace: Option<&Path>, port: u16) {
    let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    let listener = match namespace {
        Some(namespace) => inside(namespace, bind),
        None => bind(),
    };
    thread::spawn(move || {
        while let Ok((mut caller, address)) = listener.accept() {
            let _ = caller.write_all(address.ip().to_string().as_bytes());
        }
    });
}

/// Who the other side takes a caller from this namespace for, or `None` if it is not reached.
pub(crate) fn call(namespace: Option<&Path>, address: Ipv4Addr, port: u16) -> Option<IpAddr> {
    let call = || {
        let mut connection = TcpStream::connect_timeout(&SocketAddr::from((address, port)), PATIENCE).ok()?;
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).ok()?;
        answer.parse().ok()
    };
    match namespace {
        Some(namespace) => inside(namespace, call),
        None => call(),
    }
}

/// A server under an address of a namespace that sends back whatever it is sent, by TCP and by UDP, and whose connections stay open.
pub(crate) fn echo(namespace: &Path, address: Ipv4Addr, port: u16) {
    let (listener, socket) = inside(namespace, || {
        (TcpListener::bind((address, port)).unwrap(), UdpSocket::bind((address, port)).unwrap())
    });
    thread::spawn(move || {
        while let Ok((caller, _)) = listener.accept() {
            thread::spawn(move || io::copy(&mut &caller, &mut &caller));
        }
    });
    thread::spawn(move || {
        let mut datagram = [0; 2_048];
        while let Ok((length, sender)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(&datagram[..length], sender);
        }
    });
}

/// A connection from a namespace, as its processes make it.
pub(crate) fn connect(namespace: &Path, address: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
    let connect = || TcpStream::connect_timeout(&SocketAddr::from((address, port)), PATIENCE);
    let connection = inside(namespace, connect)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    Ok(connection)
}

/// Whether an echo comes back on an open connection.
pub(crate) fn echoes(mut connection: &TcpStream) -> bool {
    let mut answer = [0; 4];
    connection.write_all(b"echo").and_then(|()| connection.read_exact(&mut answer)).is_ok()
}

/// Whether an echo comes back by UDP.
pub(crate) fn echoes_udp(namespace: &Path, address: Ipv4Addr, port: u16) -> bool {
    inside(namespace, || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.connect((address, port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        // A refusal that was told fails one of the two.
        socket.send(b"echo").and_then(|_| socket.recv(&mut [0; 16])).is_ok()
    })
}

/// Whether an address answers a ping.
pub(crate) fn pings(namespace: &Path, address: Ipv4Addr) -> bool {
    let socket = inside(namespace, || {
        use rustix::net::{AddressFamily, SocketType, ipproto, socket};
        let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).unwrap();
        // The one kind of socket that the standard library has for sending datagrams of bytes.
        UdpSocket::from(socket)
    });
    // An echo request with its checksum: the complement of the one word that is not zero.
    const REQUEST: [u8; 8] = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
    const REPLY: u8 = 0;
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut packet = [0; 128];
    // The header of IPv4 without options comes first. A refusal that was told is an answer of another kind.
    let answer = socket.send_to(&REQUEST, (address, 0)).and_then(|_| socket.recv(&mut packet));
    answer.is_ok_and(|length| length > 20 && packet[20] == REPLY)
}
