"""Volumes in real guests, whose kernels mount them."""

from __future__ import annotations


async def test_what_one_guest_left_the_next_one_has(platform, volumes):
    volume = await volumes.make()
    await volume.write_file("/in/numbers", "1\n2\n3\n")
    first = await platform.create(volume_mounts={"/data": volume.name})
    result = await first.commands.run("paste -sd+ /data/in/numbers | tee /data/sum; sync; mount | grep -c ' /data '")
    assert result.stdout == "1+2+3\n1\n"
    # Open files go on through a pause.
    writer = await first.commands.run("while :; do date +%s.%N; sleep 0.1; done > /data/times", background=True)
    await first.commands.run("until [ -s /data/times ]; do sleep 0.2; done", timeout=300)
    await first.pause()
    await first.connect()
    before = int((await first.commands.run("wc -l < /data/times")).stdout)
    grown = await first.commands.run(f"until [ $(wc -l < /data/times) -gt $(({before} + 3)) ]; do sleep 0.2; done", timeout=300)
    assert grown.exit_code == 0
    await writer.kill()
    await first.kill()
    second = await platform.create(volume_mounts={"/srv/more": volume.name})
    assert await second.files.read("/srv/more/sum") == "1+2+3\n"
    await second.kill()
    assert await volume.read_file("/sum") == "1+2+3\n"
