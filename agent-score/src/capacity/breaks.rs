//! Where the level or the slope of a series changed last: what was before it says nothing of where it leads now.
//!
//! The points are cut into pieces, each with a line of its own, with the least squares that so many pieces can have; a further piece
//! has to be worth its price (as in Bayes' criterion), in errors that are worth fewer as they follow each other. What comes back
//! to the line of before was an episode, and what changes in the same way again and again, as a log that is rotated, is how it is.

use super::calm::{by_two, calm};
use super::{DAY, Millis, POINTS, Point, course, mean, moved, reduced};
use std::ops::{Add, Sub};

/// Pieces at most. What has many more breaks than that is noise.
const MOST: usize = 8;
/// Points of a piece at least: what fewer do is an outlier.
const SHORTEST: usize = 3;
/// Points for each piece that is looked for.
const POINTS_EACH: usize = 12;
/// Price of a piece, in logarithms of the number of points: line and place are three numbers, and there are many places.
const PRICE: f64 = 4.0;
/// Errors are taken for this part of the range at least: the steps of what is counted in pieces are no breaks.
const FINEST: f64 = 1e-3;
/// A change that was seen so often is how it is.
const OFTEN: usize = 3;
/// As large a part of a jump as makes another its like.
const EQUAL: f64 = 0.7;
/// What has changed by less than these parts of the range, and of the limit, goes on as before until more is known.
const SMALL: [f64; 2] = [0.1, 0.02];
/// So many times less than a walk's do the errors have to become where nothing is known of what they are worth.
const OVERWHELMS: f64 = 8.0;

/// The last change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    /// When it was; the first sample after it.
    pub first: Millis,
    /// From then, or one step before, to the last of all.
    pub days: f64,
    /// What the errors were all the time, before it as well.
    pub noise: Noise,
    /// By how much it jumped, if it jumped so before as well and is no farther than it was then; else zero.
    pub again: f64,
}

/// Errors about the lines.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Noise {
    /// Standard deviation of a point.
    pub scale: f64,
    /// Variance of the mean of a day, as they follow each other.
    pub daily: f64,
    /// How many independent ones say so.
    pub worth: f64,
}

/// What a change is judged by.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Days after which there is a trend.
    enough: f64,
    /// What changes by less goes on as before until there is one.
    small: f64,
    /// Of what was seen for less than its course a bend is nothing, but a jump is.
    jumps_only: bool,
}

/// Sums of points, of which any stretch has a line.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    n: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
    yy: f64,
}

impl Sums {
    fn of((x, y): Point) -> Self {
        let (xx, xy, yy) = (x * x, x * y, y * y);
        Self {
            n: 1.0,
            x,
            y,
            xx,
            xy,
            yy,
        }
    }

    fn with(self, other: Self, sign: f64) -> Self {
        Self {
            n: self.n + sign * other.n,
            x: self.x + sign * other.x,
            y: self.y + sign * other.y,
            xx: self.xx + sign * other.xx,
            xy: self.xy + sign * other.xy,
            yy: self.yy + sign * other.yy,
        }
    }

    fn slope(self) -> f64 {
        (self.xy - self.x * self.y / self.n) / (self.xx - self.x * self.x / self.n)
    }

    fn line(self, x: f64) -> f64 {
        self.y / self.n + self.slope() * (x - self.x / self.n)
    }

    /// Sum of the squares of the errors about its line.
    fn left(self) -> f64 {
        let each = self.n.recip();
        let (xx, xy) = (self.xx - self.x * self.x * each, self.xy - self.x * self.y * each);
        (self.yy - self.y * self.y * each - xy * xy / xx).max(0.0)
    }
}

impl Add for Sums {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        self.with(other, 1.0)
    }
}

impl Sub for Sums {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.with(other, -1.0)
    }
}

/// The last change of a series of so many days, without its course, if it ever changed; and after how many more there is a trend.
pub(super) fn last(series: &[(Millis, f64)], days: f64, limit: Option<f64>, enough: f64) -> Option<Change> {
    let points = calm(&by_two(&calm(&reduced(series, POINTS))));
    let cut = Cut::of(&points)?;
    let small = SMALL[0] * cut.range();
    let small = limit.map_or(small, |limit| small.max(SMALL[1] * limit.abs()));
    let place = cut.place(Bounds {
        enough,
        small,
        jumps_only: days < course::CYCLES,
    });
    let latest = series.iter().map(|(at, _)| *at).max()?;
    let Some(place) = place else {
        let (days, noise) = moved::since(&points, enough, small)?;
        let first = latest - (days * DAY) as Millis;
        return Some(Change {
            first,
            days,
            noise,
            again: 0.0,
        });
    };
    let (left, right) = (cut.pieces[place - 1], cut.pieces[place]);
    let around = points[right.0 - 2].0..=points[right.0 + 1].0;
    let ago = |at: Millis| (at - latest) as f64 / DAY;
    let near = series.iter().filter(|(at, _)| around.contains(&ago(*at)));
    let mut near: Vec<(Millis, f64)> = near.copied().collect();
    near.sort_by_key(|(at, _)| *at);
    // A point is the mean of a span: the samples say where in it all before lie nearer to the old line, and all after to the new one.
    let (left, right) = (cut.sums(left), cut.sums(right));
    let mut nearer = 0.0;
    let places = near.windows(2).map(|two| {
        let (at, value) = (ago(two[0].0), two[0].1);
        nearer += (value - cut.line(left, at)).powi(2) - (value - cut.line(right, at)).powi(2);
        (nearer, two[0].0, two[1].0)
    });
    let (_, before, first) = places.min_by(|a, b| a.0.total_cmp(&b.0))?;
    // Between them it may have been away: that is no time in which it was seen.
    let step = days / series.len() as f64;
    Some(Change {
        first,
        days: (-ago(before)).min(step - ago(first)),
        noise: cut.noise,
        again: cut.again(place),
    })
}

/// Points that are cut into pieces.
struct Cut {
    /// Sums of all points before each, about the means of all: squares of a time or of bytes have no digits left for errors.
    until: Vec<Sums>,
    mean: Point,
    /// From the first point of each to that of the next.
    pieces: Vec<(usize, usize)>,
    noise: Noise,
    /// What a piece has to lower the squares of the errors by.
    price: f64,
    values: Vec<f64>,
}

impl Cut {
    fn of(points: &[Point]) -> Option<Self> {
        let n = points.len();
        let most = (n / POINTS_EACH).min(MOST);
        let mean = (mean(points.iter().map(|p| p.0)), mean(points.iter().map(|p| p.1)));
        if most < 2 {
            return None;
        }
        let mut cut = Self {
            until: vec![Sums::default()],
            mean,
            pieces: Vec::new(),
            noise: Noise::default(),
            price: 0.0,
            values: points.iter().map(|p| p.1).collect(),
        };
        let points: Vec<Point> = points.iter().map(|p| (p.0 - mean.0, p.1 - mean.1)).collect();
        let mut sums = Sums::default();
        for p in &points {
            sums = sums + Sums::of(*p);
            cut.until.push(sums);
        }
        let (least, begins) = cut.cheapest(most);
        let finest = (FINEST * cut.range()).powi(2);
        let each = PRICE * (n as f64).ln();
        let mut count = 1;
        (cut.pieces, cut.price) = (vec![(0, n)], each * finest);
        // Errors that are left by breaks look as if they followed each other, so each number of pieces is judged by its own; the first
        // that is worth its price is mended by more only where these are worth theirs.
        for more in 2..=most {
            let pieces = pieces(&begins, more, n);
            let (scale, follow) = cut.errors(&pieces, &points);
            // Lines take away as many errors as these are worth: where no more are left, anything fits.
            let rest = n as f64 - 3.0 * more as f64 * follow;
            let (before, now) = (least[count - 1], least[more - 1]);
            let (price, is_worth) = if rest > 0.0 || scale * scale < finest {
                let variance = scale * scale * follow * n as f64 / rest;
                let price = each * if rest > 0.0 { variance.max(finest) } else { finest };
                (price, before - now > price * (more - count) as f64)
            } else {
                // What bends all the time follows itself about any lines. A walk leaves as many times less as there are pieces, a curve
                // the fourth power of that: growth that doubles in three days was one line of a month, 39 days from a limit it had in one.
                (4.0 * now, now * OVERWHELMS * (more as f64) < before)
            };
            if is_worth {
                (count, cut.pieces, cut.price) = (more, pieces, price);
            }
        }
        let (scale, follow) = cut.errors(&cut.pieces, &points);
        let days = points[n - 1].0 - points[0].0;
        let daily = scale * scale * follow * days / n as f64;
        let worth = n as f64 / follow;
        cut.noise = Noise { scale, daily, worth };
        Some(cut)
    }

    fn range(&self) -> f64 {
        let (lowest, highest) = range(self.values.iter().copied());
        highest - lowest
    }

    fn sums(&self, (from, to): (usize, usize)) -> Sums {
        self.until[to] - self.until[from]
    }

    /// Where a point is.
    fn at(&self, point: usize) -> f64 {
        self.sums((point, point + 1)).x + self.mean.0
    }

    /// The line of sums at a time.
    fn line(&self, sums: Sums, days: f64) -> f64 {
        sums.line(days - self.mean.0) + self.mean.1
    }

    /// The least squares of all points in 1, 2, … pieces, and for each number of them and of points where the last one begins.
    fn cheapest(&self, most: usize) -> (Vec<f64>, Vec<Vec<usize>>) {
        let n = self.until.len() - 1;
        let mut least = vec![[f64::INFINITY; MOST]; n + 1];
        let mut begins = vec![vec![0; n + 1]; most];
        for to in SHORTEST..=n {
            least[to][0] = self.sums((0, to)).left();
            for from in SHORTEST..=to.saturating_sub(SHORTEST) {
                let left = self.sums((from, to)).left();
                for count in 1..most {
                    let all = least[from][count - 1] + left;
                    if all < least[to][count] {
                        least[to][count] = all;
                        begins[count][to] = from;
                    }
                }
            }
        }
        (least[n].to_vec(), begins)
    }

    /// Standard deviation of the errors about the lines of pieces, and how many times fewer they are worth as they follow each other.
    fn errors(&self, pieces: &[(usize, usize)], points: &[Point]) -> (f64, f64) {
        let (mut all, mut next) = (0.0, 0.0);
        for &piece in pieces {
            let line = self.sums(piece);
            let mut before = 0.0;
            for p in &points[piece.0..piece.1] {
                let error = p.1 - line.line(p.0);
                all += error * error;
                next += before * error;
                before = error;
            }
        }
        let n = points.len() as f64;
        let each = pieces.len() as f64 / n;
        let follow = next / all.max(f64::MIN_POSITIVE);
        // A line that is fitted to few takes away what errors have in common (Kendall).
        let follow = ((follow + 2.0 * each) / (1.0 - 4.0 * each)).clamp(0.0, 0.98);
        let scale = (all / n).sqrt();
        (scale, (1.0 + follow) / (1.0 - follow))
    }

    /// The piece with which what is now began.
    fn place(&self, bounds: Bounds) -> Option<usize> {
        let changes: Vec<(f64, f64)> = (0..self.pieces.len()).map(|i| self.change(i)).collect();
        let mut core = self.pieces.len() - 1;
        // What comes again and again is a course without a clock, until it goes farther than it ever did.
        let now = self.line(self.sums(self.pieces[core]), 0.0);
        let (lowest, highest) = range(self.values[..self.pieces[core].0].iter().copied());
        let is_usual = |i: usize| {
            let (jump, bend) = changes[i];
            let jumps = jump.abs() >= bend.abs();
            let by = if jumps { jump } else { bend };
            // A stair has a next step, but what was cleaned there is not where it was not before.
            let [down, up] = [-by, by].map(|by| if by > 0.0 { 1.25 * by } else { -by / 2.0 });
            let is_within = (lowest - down..=highest + up).contains(&now);
            (jumps || i == core) && often(&changes, i) >= OFTEN && is_within
        };
        if (1..=core).any(is_usual) {
            return None;
        }
        while core > 0 {
            let (place, now) = self.extended(core, &changes);
            if place == 0 {
                return None;
            }
            let (jump, bend) = changes[place];
            let known = !bounds.jumps_only || jump.abs() >= bend.abs().max(self.range() / 2.0);
            let since = -self.at(self.pieces[place].0);
            let before = self.sums(self.pieces[place - 1]);
            let off = self.line(now, 0.0) - self.line(before, 0.0);
            if known && (since >= bounds.enough || off.abs() >= bounds.small) {
                return Some(place);
            }
            // It goes on as before this change: since when?
            core = place - 1;
        }
        None
    }

    /// By how much the line of a piece lies off that of the one before it, where it begins; and by how much their slopes part them.
    fn change(&self, piece: usize) -> (f64, f64) {
        if piece == 0 {
            return (0.0, 0.0);
        }
        let [a, b] = [piece - 1, piece].map(|i| self.pieces[i]);
        let between = f64::midpoint(self.at(b.0 - 1), self.at(b.0));
        let long = |(from, to): (usize, usize)| self.at(to - 1) - self.at(from);
        let shorter = long(a).min(long(b));
        let [a, b] = [a, b].map(|piece| self.sums(piece));
        (
            self.line(b, between) - self.line(a, between),
            (b.slope() - a.slope()) * shorter / 2.0,
        )
    }

    /// The jump with which a piece began, if one of the kind came before and it is within what was seen before. It may lie within a
    /// piece of its own, that is as steep as it.
    fn again(&self, place: usize) -> f64 {
        let begins = self.pieces[place].0;
        let now = self.line(self.sums((begins, self.values.len())), 0.0);
        let jumps = |values: &[f64]| -> Vec<f64> {
            let several = values.windows(SHORTEST + 1);
            several.map(|several| several[SHORTEST] - several[0]).collect()
        };
        let near = begins.saturating_sub(SHORTEST + 1)..(begins + SHORTEST + 1).min(self.values.len());
        let (lowest, highest) = range(self.values[..near.start].iter().copied());
        let is_before = |jump: f64| {
            let mut before = jumps(&self.values[..near.start]).into_iter();
            before.any(|other| other * jump.signum() >= EQUAL * jump.abs())
        };
        let jump = jumps(&self.values[near.clone()]).into_iter();
        let jump = jump.max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(0.0);
        let is_again = jump.abs() > (highest - lowest) / 4.0 && is_before(jump);
        if is_again && (lowest..=highest).contains(&now) {
            jump
        } else {
            0.0
        }
    }

    /// With which piece that begins which lasts to the end from `core` on, and all points on its line: pieces in between are episodes,
    /// unless they last longer than all else and came but once.
    fn extended(&self, core: usize, changes: &[(f64, f64)]) -> (usize, Sums) {
        let whole = (self.pieces[core].0, self.until.len() - 1);
        let (mut place, mut now, mut episode) = (core, self.sums(whole), 0.0);
        for piece in (0..core).rev() {
            let sums = self.sums(self.pieces[piece]);
            let joint = now + sums;
            let same = joint.left() - now.left() - sums.left() < self.price;
            if same && (episode <= joint.n || often(changes, place) > 1) {
                (place, now, episode) = (piece, joint, 0.0);
            } else {
                episode += sums.n;
            }
        }
        (place, now)
    }
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(lowest, highest), value| {
        (lowest.min(value), highest.max(value))
    })
}

/// How many changes were as that of a piece: in the same direction, and half as large or more.
fn often(changes: &[(f64, f64)], piece: usize) -> usize {
    let jumps = changes[piece].0.abs() >= changes[piece].1.abs();
    let of = |change: &(f64, f64)| if jumps { change.0 } else { change.1 };
    let like = of(&changes[piece]);
    let alike = changes
        .iter()
        .filter(|change| of(change) * like.signum() >= like.abs() / 2.0);
    alike.count()
}

/// From the first point of each piece to that of the next.
fn pieces(begins: &[Vec<usize>], count: usize, n: usize) -> Vec<(usize, usize)> {
    let mut pieces = Vec::with_capacity(count);
    let mut to = n;
    for count in (0..count).rev() {
        let from = begins[count][to];
        pieces.push((from, to));
        to = from;
    }
    pieces.reverse();
    pieces
}
