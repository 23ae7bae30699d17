//! What the guest's agent costs: against the bare link to the same guest.

use std::time::Duration;

use anyhow::Result;

use crate::bare::Bare;
use crate::link::{Link, SERVER};
use crate::report::{Row, Samples};

/// Moved in one measurement: enough that the connection's start does not count.
const BYTES: usize = 16 << 20;

/// Starting a process, its output, and files both ways.
pub(crate) async fn agent(bare: &Bare, rounds: u32) -> Result<Vec<Row>> {
    let machine = bare.restore(bare.prepare().await?).await?;
    bare.adopt(&machine).await?;
    let server = machine.start("python3", &["-c", SERVER]).await?;
    let mut link = Link::open(machine.address()).await?;
    bare.upload(&machine, BYTES).await?;

    let mut start = [Samples::default(), Samples::default()];
    let mut stdout = start.clone();
    let mut down = start.clone();
    let mut up = start.clone();
    for round in 0..=rounds {
        let took = [
            [machine.first_byte().await?, link.echo().await?],
            [machine.output(BYTES).await?, link.down(BYTES).await?],
            [bare.download(&machine, BYTES).await?, link.down(BYTES).await?],
            [bare.upload(&machine, BYTES).await?, link.up(BYTES).await?],
        ];
        // The first round is not counted: the guest's code is translated then.
        if round == 0 {
            continue;
        }
        for (samples, took) in start.iter_mut().zip(took[0]) {
            samples.push(took.as_secs_f64() * 1000.0);
        }
        for (samples, took) in [&mut stdout, &mut down, &mut up].into_iter().zip(&took[1..]) {
            for (samples, took) in samples.iter_mut().zip(took) {
                samples.push(mb_per_second(*took));
            }
        }
        eprint!("\rthe guest's agent: {round}/{rounds} ");
    }
    eprintln!();
    drop(server);
    bare.destroy(machine).await?;
    Ok(vec![
        Row::new("process_start", "ms", &start[0], "a byte there and back over the bare link", &start[1]),
        Row::new("stdout", "MB/s", &stdout[0], "the bare link, from the guest", &stdout[1]),
        Row::new("files_down", "MB/s", &down[0], "the bare link, from the guest", &down[1]),
        Row::new("files_up", "MB/s", &up[0], "the bare link, to the guest", &up[1]),
    ])
}

fn mb_per_second(took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "some megabytes")]
    let bytes = BYTES as f64;
    bytes / 1e6 / took.as_secs_f64()
}
