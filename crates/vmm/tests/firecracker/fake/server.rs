//! HTTP over a unix socket, as much of it as Firecracker understands. One request after another.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::exit,
    time::Duration,
};

use super::{
    Plan, Step,
    vm::{Answer, Machine},
};

const LONGEST_BODY: usize = 51_200;

pub(super) fn run(socket: &Path, plan: &Plan) -> ! {
    plan.start.pass();
    let listener = UnixListener::bind(socket).unwrap();
    let mut machine = Machine::new();
    loop {
        let (stream, _) = listener.accept().unwrap();
        serve(&stream, &mut machine, plan);
    }
}

fn serve(stream: &UnixStream, machine: &mut Machine, plan: &Plan) {
    let mut reader = BufReader::new(stream);
    while let Some((request, body)) = read(&mut reader) {
        let step = plan.requests.get(&request).unwrap_or(&Step::Go);
        step.pass();
        let answer = machine.answer(&request, &body, step);
        match step {
            Step::DoneThenDie => exit(1),
            // The test says when by making a file: there is nothing in the jail to be woken by.
            Step::DoneThenWait => {
                while !Path::new("/go").exists() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            _ => {}
        }
        let ends = machine.ends_after(&request, &answer);
        // Who asked may have gone away.
        let _ = respond(stream, &answer);
        if let Err(words) = &answer {
            println!("{request}: {words}");
        }
        if ends {
            exit(1);
        }
    }
}

/// A request, as `METHOD path`, and its body. None at the connection's end.
fn read(reader: &mut BufReader<&UnixStream>) -> Option<(String, Vec<u8>)> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let words: Vec<_> = line.split_ascii_whitespace().collect();
    let [method @ ("GET" | "PUT" | "PATCH"), path, "HTTP/1.1"] = words[..] else {
        panic!("not HTTP: {line}")
    };
    let request = format!("{method} {path}");
    let (mut length, mut json) = (0, false);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "content-type" | "accept" => json |= value == "application/json",
            "transfer-encoding" => panic!("Firecracker wants a length"),
            _ => {}
        }
    }
    assert!(json && length <= LONGEST_BODY, "{request}: {length} bytes, JSON: {json}");
    assert!(method != "GET" || length == 0, "a GET has no body");
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((request, body))
}

fn respond(mut stream: &UnixStream, answer: &Answer) -> std::io::Result<()> {
    let (status, body) = match answer {
        Ok(None) => ("204 No Content", String::new()),
        Ok(Some(value)) => ("200 OK", value.to_string()),
        Err(words) => ("400 Bad Request", serde_json::json!({ "fault_message": words }).to_string()),
    };
    let length = match body.len() {
        0 => String::new(),
        length => format!("Content-Type: application/json\r\nContent-Length: {length}\r\n"),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nServer: Firecracker API\r\nConnection: keep-alive\r\n{length}\r\n{body}"
    )
}
