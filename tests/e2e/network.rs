//! Where a guest may connect to: what no policy opens, tried as root in the guest, and a policy that changes while it runs.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use sandbar_tests::{Platform, Sandbox};
use sandbar_types::guest::{AGENT_PORT, GATEWAY_IP};
use serde_json::{Value, json};

use crate::{Test, tests};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        root_in_a_guest_reaches_nothing_of_the_platform_by_any_protocol,
        a_policy_is_in_force_when_it_was_taken_and_tells_what_it_denied,
    ]
}

/// Sends from inside by TCP and UDP; prints what was answered. By UDP also under addresses that are not the guest's: whether those arrive
/// is for the other side to see.
const PROBE: &str = r"
import socket, struct, sys, threading
FORGED = ['10.213.0.2', '127.0.0.1', '172.30.0.1', '8.8.8.8']
def tcp(host, port, family):
    with socket.socket(family) as s:
        s.settimeout(4)
        s.connect((host, port))
        return True
def udp(host, port, family):
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(4)
        s.connect((host, port))
        s.send(b'from the guest')
        s.recv(16)
        return True
def forged(host, port, family):
    if family == socket.AF_INET6:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as s:
        for source in FORGED:
            datagram = struct.pack('!4H', 4321, port, 14, 0) + b'forged'
            header = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 34, 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(host))
            s.sendto(header + datagram, (host, 0))
    return False
def probe(kind, target):
    host, port = target.rsplit(':', 1)
    family = socket.AF_INET6 if host.startswith('[') else socket.AF_INET
    try:
        if kind(host.strip('[]'), int(port), family):
            print(kind.__name__, target, flush=True)
    except OSError:
        pass
threads = [threading.Thread(target=probe, args=(kind, target)) for target in sys.argv[1:] for kind in (tcp, udp, forged)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
";

/// What answers the guest.
async fn answered(sandbox: &Sandbox, targets: &BTreeSet<String>) -> Result<BTreeSet<String>> {
    let arguments: Vec<_> = ["-c", PROBE].into_iter().chain(targets.iter().map(String::as_str)).collect();
    let outcome = sandbox
        .exec(&json!({"cmd": "python3", "args": arguments, "user": "root", "timeout_sec": 120}))
        .await?;
    ensure!(outcome.exit_code == 0, "{}", outcome.raw);
    Ok(String::from_utf8(outcome.stdout)?.lines().map(str::to_owned).collect())
}

async fn network(sandbox: &Sandbox) -> Result<Value> {
    sandbox.client().get(&format!("/v1/sandboxes/{}/network", sandbox.id)).await?.json(200)
}

async fn set_network(sandbox: &Sandbox, rules: &Value) -> Result<()> {
    let reply = sandbox.client().put(&format!("/v1/sandboxes/{}/network", sandbox.id), rules).await?;
    reply.expect(204).map(|_| ())
}

async fn root_in_a_guest_reaches_nothing_of_the_platform_by_any_protocol(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let (one, other) = (platform.sandbox().await?, platform.sandbox().await?);
    // All that a tenant can open is opened.
    set_network(&one, &json!({"allow_out": ["0.0.0.0/0"]})).await?;
    // A service of the host's that answers whatever arrives, and remembers it.
    let service = tokio::net::UdpSocket::bind("0.0.0.0:0").await?;
    let port = service.local_addr()?.port();
    let mut targets = BTreeSet::new();
    let host_end = one.host_ip()?.to_bits() - 1;
    for host in
        [GATEWAY_IP.to_string(), std::net::Ipv4Addr::from_bits(host_end).to_string(), "127.0.0.1".to_owned()]
    {
        // The guest's own loopback answers the guest's own agent, and nothing of the host's.
        targets.extend([port, platform.port()].map(|port| format!("{host}:{port}")));
    }
    for address in ["169.254.169.254", "100.100.100.200", "168.63.129.16", "10.0.0.1", "192.168.0.1"] {
        targets.extend([53, 80].map(|port| format!("{address}:{port}")));
    }
    targets.insert(format!("{}:{AGENT_PORT}", other.host_ip()?));
    targets.extend(
        ["[::ffff:169.254.169.254]:80", "[fd00:ec2::254]:80", "[fe80::1]:80", "[ff02::1]:53"]
            .map(str::to_owned),
    );
    let reached = answered(&one, &targets).await?;
    ensure!(reached.is_empty(), "the guest reached {reached:?}");
    // Everything that was sent has been answered or refused by now; what had arrived would be waiting.
    let mut datagram = [0; 32];
    match service.try_recv(&mut datagram) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
        arrived => anyhow::bail!("a datagram of the guest's reached the host: {arrived:?} {datagram:?}"),
    }
    // And it was seen that it tried.
    let told = network(&one).await?;
    for reason in ["reserved", "private", "forged"] {
        ensure!(told["denials"]["counts"][reason].as_u64() > Some(0), "{reason}: {told}");
    }
    let denied = told["denials"]["addresses"].as_array().context("no addresses")?;
    ensure!(
        denied.iter().any(|denied| denied["address"] == "169.254.169.254" && denied["port"] == 80),
        "{told}"
    );
    Ok(())
}

async fn a_policy_is_in_force_when_it_was_taken_and_tells_what_it_denied(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let closed = Sandbox::create(&platform.client()?, &json!({"network": {"allow_internet": false}})).await?;
    // Documentation addresses: nobody answers there. A refusal comes at once, and says so; silence is a packet that left.
    let dial = |address: &str| {
        format!(
            "import socket\ns = socket.socket()\ns.settimeout(15)\ntry: s.connect(('{address}', 443)); print('open')\n\
             except TimeoutError: print('left')\nexcept OSError: print('refused')"
        )
    };
    let says = async |sandbox: &Sandbox, address: &str| {
        let outcome =
            sandbox.exec(&json!({"cmd": "python3", "args": ["-c", dial(address)], "user": "root"})).await?;
        anyhow::Ok(String::from_utf8(outcome.stdout)?.trim().to_owned())
    };
    ensure!(says(&closed, "203.0.113.7").await? == "refused");
    let told = network(&closed).await?;
    ensure!(told["denials"]["counts"]["policy"].as_u64() > Some(0), "{told}");
    let denied = told["denials"]["addresses"].as_array().context("no addresses")?;
    ensure!(
        denied.iter().any(|denied| denied["address"] == "203.0.113.7" && denied["port"] == 443),
        "{told}"
    );

    // It stays closed when it goes on after a pause, and its children are closed as well.
    let path = |verb: &str| format!("/v1/sandboxes/{}/{verb}", closed.id);
    closed.client().post(&path("pause"), &json!({})).await?.expect(200)?;
    closed.client().post(&path("resume"), &json!({})).await?.expect(200)?;
    ensure!(says(&closed, "203.0.113.8").await? == "refused", "a resume opened it");
    ensure!(network(&closed).await?["allow_internet"] == false);
    let children: Value = closed.client().post(&path("fork"), &json!({})).await?.json(201)?;
    let child = children[0]["sandbox"]["id"].as_str().context("no child")?;
    let child = Sandbox::of(closed.client(), child, Value::Null);
    ensure!(says(&child, "203.0.113.8").await? == "refused", "a child is open");
    child.destroy().await?;

    // One address is opened, by the command line: what is sent there leaves, or is refused by somebody else.
    let set =
        platform.cli(&["sandbox", "network", &closed.id, "--deny-internet", "--allow-out", "203.0.113.9"]);
    set.run().await?.expect(0)?;
    ensure!(says(&closed, "203.0.113.8").await? == "refused");
    let _somebody = says(&closed, "203.0.113.9").await?;
    let told = network(&closed).await?;
    let denied = told["denials"]["addresses"].as_array().context("no addresses")?;
    ensure!(denied.iter().all(|denied| denied["address"] != "203.0.113.9"), "{told}");
    ensure!(denied.iter().any(|denied| denied["address"] == "203.0.113.8"), "{told}");
    Ok(())
}
