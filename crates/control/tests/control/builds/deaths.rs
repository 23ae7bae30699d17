//! Whatever dies at whichever step of a build: it is begun anew where it must be, and ends well, and no sandbox is left.

use super::*;

/// What a build waits for while something dies: its sandbox, a step, its template.
const STEPS: [Rpc; 3] = [Rpc::CreateSandbox, Rpc::ExecStream, Rpc::SnapshotSandbox];

impl Building {
    /// Every connection to the database and to Redis breaks, and Redis forgets all that it knew.
    async fn lose_connections(&mut self) {
        self.world
            .execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            .await;
        if let Some(redis) = &mut self.redis {
            redis.lose_everything();
        }
    }
}

async fn connections_that_break_at_any_step_end_no_build(queue: Queue) {
    let mut building = Building::new(queue).await;
    let _workers = building.workers().await;
    for rpc in STEPS {
        let before = building.world.host.calls(rpc);
        let gate = building.world.host.hold(rpc);
        let build = building.submit("work", &["echo one"]).await;
        building.world.host.arrived(rpc, before + 1).await;
        building.lose_connections().await;
        gate.open();
        let (ended, logs) = building.end_of(build.id).await;
        assert_eq!((ended.status, ended.error), (BuildStatus::Success, None), "{rpc:?}");
        assert_eq!(logs[0].stdout, "one\n", "{rpc:?}");
        building.no_sandbox_is_left().await;
    }
    assert_eq!(building.told().await, ["api_key build work success"; 3]);
}

async fn a_control_plane_that_is_killed_at_any_step_is_succeeded(queue: Queue) {
    let building = Building::new(queue).await;
    for rpc in STEPS {
        let before = building.world.host.calls(rpc);
        let doomed = building.world.doomed(|control: Control, _: OpContext| async move {
            control.run_background(CancellationToken::new()).await;
        });
        let gate = building.world.host.hold(rpc);
        let build = building.submit("work", &["echo one"]).await;
        building.world.host.arrived(rpc, before + 1).await;
        doomed.kill();
        gate.open();
        building.world.execute("UPDATE template_builds SET leased_until = now() - interval '1 second'").await;
        building.world.age_rows().await;
        let _workers = building.workers().await;
        let (ended, _) = building.end_of(build.id).await;
        assert_eq!((ended.status, ended.attempts, ended.error), (BuildStatus::Success, 2, None), "{rpc:?}");
        building.no_sandbox_is_left().await;
    }
    assert_eq!(building.told().await, ["api_key build work success"; 3]);
}

with_both_queues! {
    connections_that_break_at_any_step_end_no_build,
    a_control_plane_that_is_killed_at_any_step_is_succeeded,
}
