//! Three rings of points: half seconds, averages of half minutes, averages of five minutes.
//!
//! Memory is taken once, when a sandbox's first point comes, and never again.

use sandbar_types::MetricsRange;
use serde::{Deserialize, Serialize};

/// What a sandbox used around one moment.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Point {
    #[serde(rename = "t")]
    pub(crate) unix_ms: i64,
    /// Of one processor: two busy ones are 200.
    #[serde(rename = "c")]
    pub(crate) cpu_pct: f64,
    #[serde(rename = "m")]
    pub(crate) mem_bytes: u64,
    #[serde(rename = "d")]
    pub(crate) disk_bytes: u64,
}

/// A ring's points, and for how long one of them stands.
const FINE: usize = 1_200;
const MIDDLE: usize = 240;
const MIDDLE_MS: i64 = 30_000;
const COARSE: usize = 288;
const COARSE_MS: i64 = 300_000;

/// The rings of one sandbox.
#[derive(Debug)]
pub(super) struct Rings {
    fine: Ring,
    middle: Ring,
    coarse: Ring,
    to_middle: Average,
    to_coarse: Average,
}

/// The rings in a file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Kept {
    #[serde(rename = "10m")]
    fine: Vec<Point>,
    #[serde(rename = "2h")]
    middle: Vec<Point>,
    #[serde(rename = "24h")]
    coarse: Vec<Point>,
}

impl Kept {
    /// The points of one ring.
    pub(super) fn of(self, range: MetricsRange) -> Vec<Point> {
        match range {
            MetricsRange::TenMinutes => self.fine,
            MetricsRange::TwoHours => self.middle,
            MetricsRange::Day => self.coarse,
        }
    }
}

impl Default for Rings {
    fn default() -> Self {
        Self {
            fine: Ring::of(FINE),
            middle: Ring::of(MIDDLE),
            coarse: Ring::of(COARSE),
            to_middle: Average::over(MIDDLE_MS),
            to_coarse: Average::over(COARSE_MS),
        }
    }
}

impl Rings {
    pub(super) fn push(&mut self, point: Point) {
        self.fine.push(point);
        if let Some(average) = self.to_middle.add(point) {
            self.middle.push(average);
        }
        if let Some(average) = self.to_coarse.add(point) {
            self.coarse.push(average);
        }
    }

    pub(super) fn points(&self, range: MetricsRange) -> Vec<Point> {
        match range {
            MetricsRange::TenMinutes => self.fine.oldest_first(),
            MetricsRange::TwoHours => self.middle.oldest_first(),
            MetricsRange::Day => self.coarse.oldest_first(),
        }
    }

    /// The averages under way are kept as points: they will not be completed.
    pub(super) fn to_kept(&self) -> Kept {
        let with = |ring: &Ring, average: &Average| {
            let mut points = ring.oldest_first();
            points.extend(average.so_far());
            points
        };
        Kept {
            fine: self.fine.oldest_first(),
            middle: with(&self.middle, &self.to_middle),
            coarse: with(&self.coarse, &self.to_coarse),
        }
    }

    pub(super) fn from_kept(kept: Kept) -> Self {
        let mut rings = Self::default();
        let Kept { fine, middle, coarse } = kept;
        for (ring, points) in
            [(&mut rings.fine, fine), (&mut rings.middle, middle), (&mut rings.coarse, coarse)]
        {
            points.into_iter().for_each(|point| ring.push(point));
        }
        rings
    }
}

/// The last points, up to a number.
#[derive(Debug)]
struct Ring {
    points: Vec<Point>,
    most: usize,
    /// Where the next point goes, once the ring is full.
    next: usize,
}

impl Ring {
    const fn of(most: usize) -> Self {
        Self { points: Vec::new(), most, next: 0 }
    }

    fn push(&mut self, point: Point) {
        if self.points.capacity() == 0 {
            self.points.reserve_exact(self.most);
        }
        if self.points.len() < self.most {
            self.points.push(point);
        } else if let Some(oldest) = self.points.get_mut(self.next) {
            *oldest = point;
            self.next = (self.next + 1) % self.most;
        }
    }

    fn oldest_first(&self) -> Vec<Point> {
        let (newer, older) = self.points.split_at(self.next.min(self.points.len()));
        [older, newer].concat()
    }
}

/// The mean of the points within one span of the clock.
#[derive(Debug)]
struct Average {
    span_ms: i64,
    count: u32,
    first_ms: i64,
    cpu_pct: f64,
    mem_bytes: u128,
    disk_bytes: u64,
}

impl Average {
    const fn over(span_ms: i64) -> Self {
        Self { span_ms, count: 0, first_ms: 0, cpu_pct: 0.0, mem_bytes: 0, disk_bytes: 0 }
    }

    /// Adds a point. The first one of a new span completes the one before.
    fn add(&mut self, point: Point) -> Option<Point> {
        let begins = point.unix_ms.div_euclid(self.span_ms) != self.first_ms.div_euclid(self.span_ms);
        let complete = if begins { self.so_far() } else { None };
        if begins || self.count == 0 {
            *self = Self { first_ms: point.unix_ms, ..Self::over(self.span_ms) };
        }
        self.count += 1;
        self.cpu_pct += point.cpu_pct;
        self.mem_bytes += u128::from(point.mem_bytes);
        // It changes slowly and is measured seldom: the last one is the best.
        self.disk_bytes = point.disk_bytes;
        complete
    }

    fn so_far(&self) -> Option<Point> {
        (self.count > 0).then(|| Point {
            unix_ms: self.first_ms.div_euclid(self.span_ms) * self.span_ms,
            cpu_pct: self.cpu_pct / f64::from(self.count),
            mem_bytes: u64::try_from(self.mem_bytes / u128::from(self.count)).unwrap_or(u64::MAX),
            disk_bytes: self.disk_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(unix_ms: i64, cpu_pct: f64, mem_bytes: u64) -> Point {
        Point { unix_ms, cpu_pct, mem_bytes, disk_bytes: 7 }
    }

    #[test]
    fn a_ring_keeps_the_last_points_in_order() {
        let mut ring = Ring::of(4);
        for n in 0..11 {
            ring.push(at(n, 0.0, 0));
            let times: Vec<_> = ring.oldest_first().iter().map(|point| point.unix_ms).collect();
            let expected: Vec<_> = ((n - 3).max(0)..=n).collect();
            assert_eq!(times, expected);
        }
        assert_eq!(ring.points.capacity(), 4, "no memory is taken after the first point");
    }

    #[test]
    fn coarser_rings_hold_the_means_of_whole_spans() {
        let mut rings = Rings::default();
        let start = 1_700_000_100_000;
        assert_eq!(start % COARSE_MS, 0);
        for n in 0..1_320_i64 {
            // Every other half second busy.
            let cpu = if n % 2 == 0 { 100.0 } else { 0.0 };
            rings.push(at(start + n * 500, cpu, 1_000));
        }
        assert_eq!(rings.points(MetricsRange::TenMinutes).len(), FINE);
        let middle = rings.points(MetricsRange::TwoHours);
        assert_eq!(middle.len(), 21);
        for (n, point) in (0_i64..).zip(&middle) {
            assert_eq!(*point, at(start + n * MIDDLE_MS, 50.0, 1_000));
        }
        let coarse = rings.points(MetricsRange::Day);
        assert_eq!(coarse, [at(start, 50.0, 1_000), at(start + COARSE_MS, 50.0, 1_000)]);
    }

    #[test]
    fn kept_rings_come_back_with_what_was_under_way() {
        let mut rings = Rings::default();
        for n in 0..70_i64 {
            rings.push(at(n * 500, 10.0, 100));
        }
        let text = serde_json::to_vec(&rings.to_kept()).unwrap();
        let back = Rings::from_kept(serde_json::from_slice(&text).unwrap());
        assert_eq!(back.points(MetricsRange::TenMinutes), rings.points(MetricsRange::TenMinutes));
        assert_eq!(back.points(MetricsRange::TwoHours), [at(0, 10.0, 100), at(30_000, 10.0, 100)]);
        assert_eq!(back.points(MetricsRange::Day), [at(0, 10.0, 100)]);
    }

    #[test]
    fn a_gap_is_a_gap_and_no_average() {
        let mut rings = Rings::default();
        rings.push(at(0, 10.0, 100));
        rings.push(at(10 * MIDDLE_MS, 30.0, 300));
        rings.push(at(11 * MIDDLE_MS, 30.0, 300));
        let points = rings.points(MetricsRange::TwoHours);
        assert_eq!(points, [at(0, 10.0, 100), at(10 * MIDDLE_MS, 30.0, 300)]);
    }
}
