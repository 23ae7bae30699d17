use reqwest::Method;
use serde_json::json;

use crate::platform::Platform;

#[tokio::test]
async fn usage_comes_by_days_as_json_and_as_csv() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    platform.api.post(&format!("/v1/sandboxes/{id}/pause"), json!({})).await.expect(200);
    let pool = platform.database.pool();
    // Ninety minutes on the day before yesterday, that was summed up, and an hour yesterday, that was not.
    sqlx::raw_sql(
        "UPDATE usage_counted SET counted_from = counted_from - 2, counted_to = counted_to - 1;
         INSERT INTO team_daily_usage (team_id, day, cpu_minutes, memory_mb_minutes)
         SELECT team_id, (now() AT TIME ZONE 'UTC')::date - 2, 90, 46080 FROM sandboxes;
         INSERT INTO sandbox_runs (sandbox_id, team_id, vcpus, memory_mb, started_at, ended_at)
         SELECT gen_random_uuid(), team_id, 2, 1024, day + interval '3 hours', day + interval '4 hours'
         FROM sandboxes, (SELECT ((now() AT TIME ZONE 'UTC')::date - 1)::timestamp AT TIME ZONE 'UTC' AS day) y;",
    )
    .execute(pool)
    .await
    .unwrap();

    let told = platform.api.get("/v1/usage").await.expect(200);
    let days = told["days"].as_array().unwrap();
    assert_eq!(days.len(), 3, "{told}");
    assert_eq!((&days[0]["cpu_minutes"], &days[0]["memory_mb_minutes"]), (&json!(90.0), &json!(46080.0)));
    assert_eq!((&days[1]["cpu_minutes"], &days[1]["memory_mb_minutes"]), (&json!(120.0), &json!(61440.0)));
    let today = days[2]["cpu_minutes"].as_f64().unwrap();
    assert!(today > 0.0 && today < 5.0, "{today}");
    assert!((told["total"]["cpu_minutes"].as_f64().unwrap() - 210.0 - today).abs() < 1e-9);

    let (first, second) = (days[0]["date"].as_str().unwrap(), days[1]["date"].as_str().unwrap());
    let path = format!("/v1/usage?from={first}&to={second}");
    let answer = platform.api.request(Method::GET, &path).header("Accept", "text/csv").send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/csv; charset=utf-8");
    assert_eq!(
        answer.headers()["content-disposition"],
        format!("attachment; filename=\"usage-{first}-{second}.csv\"")
    );
    let text = answer.text().await.unwrap();
    assert_eq!(
        text,
        format!("date,cpu_minutes,memory_mb_minutes\r\n{first},90,46080\r\n{second},120,61440\r\n")
    );

    let theirs = platform.stranger().await.get(&path).await.expect(200);
    assert_eq!(theirs["total"], json!({"cpu_minutes": 0.0, "memory_mb_minutes": 0.0}));
    for query in [
        "from=2026-02-30",
        "from=x",
        "from=2026-01-02&to=2026-01-01",
        "from=2024-01-01&to=2026-01-01",
        "to=99999-01-01",
    ] {
        platform.api.get(&format!("/v1/usage?{query}")).await.refused(400, "invalid_request");
    }
}
