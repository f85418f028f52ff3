//! Series with known events.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::f64::consts::TAU;

/// Samples before the first event, and around each.
pub const CLEAN: usize = 15_000;

/// What is random in a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noise {
    Gaussian,
    /// Student's t with three degrees of freedom.
    Heavy,
    /// A latency: its logarithm is Gaussian.
    Skewed,
    /// Autoregressive, 0.9 of the last value.
    Correlated,
    /// Poisson, four a step.
    Counts,
}

/// What happens in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Spike,
    Shift,
    Drift,
    Season,
    Variance,
    /// Nothing that is to be told.
    Gap,
    /// Nothing at all.
    None,
}

pub const NOISES: [Noise; 5] = [
    Noise::Gaussian,
    Noise::Heavy,
    Noise::Skewed,
    Noise::Correlated,
    Noise::Counts,
];
pub const KINDS: [Kind; 6] = [
    Kind::Spike,
    Kind::Shift,
    Kind::Drift,
    Kind::Season,
    Kind::Variance,
    Kind::Gap,
];

/// From where to where an event can be told, and until when what is told may be of it still.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub start: usize,
    pub end: usize,
    pub after: usize,
}

/// A series, NaN where nothing was measured.
pub struct Labelled {
    pub noise: Noise,
    pub kind: Kind,
    pub values: Vec<f64>,
    pub events: Vec<Event>,
}

struct Source {
    random: StdRng,
    last: f64,
}

impl Source {
    fn gaussian(&mut self) -> f64 {
        let u: f64 = self.random.random_range(f64::MIN_POSITIVE..1.0);
        let v: f64 = self.random.random_range(0.0..TAU);
        (-2.0 * u.ln()).sqrt() * v.cos()
    }

    /// Of mean 0 and deviation 1.
    fn noise(&mut self, noise: Noise) -> f64 {
        match noise {
            Noise::Gaussian | Noise::Counts => self.gaussian(),
            Noise::Heavy => {
                let chi: f64 = (0..3).map(|_| self.gaussian().powi(2)).sum();
                self.gaussian() / (chi / 3.0).sqrt() / 3f64.sqrt()
            }
            Noise::Skewed => ((0.5 * self.gaussian()).exp() - 1.1331) / 0.6039,
            Noise::Correlated => {
                self.last = 0.9 * self.last + 0.43589 * self.gaussian();
                self.last
            }
        }
    }

    fn poisson(&mut self, mean: f64) -> f64 {
        let end = (-mean.max(0.0)).exp();
        let (mut count, mut product) = (0.0, self.random.random::<f64>());
        while product > end {
            count += 1.0;
            product *= self.random.random::<f64>();
        }
        count
    }
}

/// What is exceeded once in a million samples, in standard deviations.
fn weekly(noise: Noise) -> f64 {
    match noise {
        Noise::Gaussian | Noise::Correlated => 4.8,
        Noise::Heavy => 60.0,
        Noise::Skewed => 16.0,
        Noise::Counts => 6.0,
    }
}

/// A series of a noise with events of a kind, one each fifteen thousand samples.
pub fn series(noise: Noise, kind: Kind, samples: usize, seed: u64) -> Labelled {
    let mut source = Source {
        random: StdRng::seed_from_u64(seed),
        last: 0.0,
    };
    let period = f64::from(source.random.random_range(40..400));
    // Half of the series have a season; all those whose events are of it.
    let amplitude = if kind == Kind::Season || source.random.random() {
        source.random.random_range(2.0..4.0)
    } else {
        0.0
    };
    let mut events = Vec::new();
    let mut at = CLEAN;
    while kind != Kind::None && at + 10_000 < samples {
        let start = at + source.random.random_range(0..4_000);
        let (length, after) = match kind {
            Kind::Spike => (source.random.random_range(1..4), 30),
            Kind::Shift => (300, 700),
            Kind::Drift => (900, 1500),
            Kind::Season => ((2.0 * period) as usize, 3_000),
            Kind::Variance => (300, 700),
            Kind::Gap => (source.random.random_range(2..500), 0),
            Kind::None => (0, 0),
        };
        events.push(Event {
            start,
            end: start + length,
            after: start + length + after,
        });
        at += CLEAN;
    }
    let mut values = Vec::with_capacity(samples);
    let (mut level, mut phase) = (0.0, 0.0);
    let mut next = 0;
    let (mut size, mut sign) = (0.0, 1.0);
    for t in 0..samples {
        let event = events
            .get(next)
            .filter(|e| (e.start..e.end).contains(&t))
            .copied();
        if let Some(event) = event.filter(|e| e.start == t) {
            sign = if source.random.random() { 1.0 } else { -1.0 };
            size = match kind {
                // No detector can tell what the noise itself does once a week.
                Kind::Spike => weekly(noise) * source.random.random_range(1.2..2.5),
                Kind::Shift => source.random.random_range(3.0..6.0),
                Kind::Drift => source.random.random_range(5.0..8.0) / (event.end - event.start) as f64,
                Kind::Season => source.random.random_range(0.3..0.7) * TAU,
                _ => source.random.random_range(3.0..5.0),
            };
            match kind {
                Kind::Shift => level += sign * size,
                Kind::Season => phase += size,
                _ => {}
            }
        }
        let (mut spike, mut spread, mut gone) = (0.0, 1.0, false);
        if event.is_some() {
            match kind {
                Kind::Spike => spike = sign * size,
                Kind::Drift => level += sign * size,
                Kind::Variance => spread = size,
                Kind::Gap => gone = true,
                _ => {}
            }
        }
        if events.get(next).is_some_and(|e| t + 1 >= e.end) {
            next += 1;
        }
        let season = amplitude * (TAU * t as f64 / period + phase).sin();
        let shape = level + season + spike;
        let value = match noise {
            // Deviation 2 at a rate of 4. Negative shifts cannot go below nothing.
            Noise::Counts => {
                let rate = 4.0 * (1.0 + 0.12 * season) + 2.0 * (level.abs() + spike.abs());
                let rate = rate
                    * if spread > 1.0 {
                        source.random.random_range(0.0..2.0 * spread)
                    } else {
                        1.0
                    };
                source.poisson(rate)
            }
            _ => 100.0 + shape + spread * source.noise(noise),
        };
        values.push(if gone { f64::NAN } else { value });
    }
    if kind == Kind::Gap {
        events.clear();
    }
    Labelled {
        noise,
        kind,
        values,
        events,
    }
}
