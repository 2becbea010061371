//! Which codec moves the guest's bytes fastest, from what was measured.
//!
//! Compressing and sending overlap, so a level moves `min(what the CPU compresses, link / ratio)`
//! guest bytes a second, and raw pages move at the speed of the link. The best of these is taken,
//! raw when in doubt: a codec is never slower than none (MIG-78).
//!
//! Pure and deterministic: it is told durations and reads no clock. What one level shows about the
//! content is taken to hold for the others in proportion; now and then a neighbour of the level in
//! use is tried for one block, ever more rarely while that brings nothing.

use std::time::Duration;

/// The user's choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Whatever is fastest.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Always at this zstd level, -5 to 3, except for what does not compress.
    Level(i8),
}

/// How to send a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// As it is.
    Raw,
    /// With zstd at this level.
    Zstd(i8),
}

/// zstd levels to choose from, fastest first, with what they do on typical pages until measured:
/// bytes compressed per second, and bytes out for each byte in.
const LEVELS: [(i8, f64, f64); 5] = [
    (-5, 700e6, 0.55),
    (-3, 600e6, 0.50),
    (-1, 500e6, 0.45),
    (1, 330e6, 0.34),
    (3, 250e6, 0.32),
];

/// Link speed assumed until measured, bytes per second, for all streams together: 10 Gb/s.
const ASSUMED_LINK: f64 = 1.25e9;

/// The fastest that a link is assumed to be.
const MAX_LINK: f64 = 100e9;

/// How much better another codec must be to be changed to.
const MIN_GAIN: f64 = 1.05;

/// How much faster a link that did not make us wait is assumed to be, each time.
const LINK_GROWTH: f64 = 1.5;

/// Observations of such a link before anything was measured until it is assumed to be faster: what buffers
/// take at the beginning tells nothing of it.
const FIRST_GROWTH_PATIENCE: u32 = 4;

/// Observations of such a link until it is assumed to be faster: after a measurement, and at most;
/// they double each time that proves wrong.
const MIN_GROWTH_PATIENCE: u32 = 8;
const MAX_GROWTH_PATIENCE: u32 = 64;

/// The part of an assumed speed that must be reached for the assumption to have been right.
const ASSUMED_REACHED: f64 = 0.8;

/// Blocks between two tries of a neighbour: at first, and at most.
const FIRST_TRY_BLOCKS: u32 = 32;
const MAX_TRY_BLOCKS: u32 = 2048;

/// Tries take at most this part of the time.
const TRY_SHARE: f64 = 0.01;

/// The weight of a new measurement: of the content, of a level's own part, of the link.
const CONTENT_WEIGHT: f64 = 0.25;
const LEVEL_WEIGHT: f64 = 0.1;
const LINK_WEIGHT: f64 = 0.25;

/// How far measurements may move an estimate from the typical one.
const MAX_SCALE: f64 = 256.0;

/// A typical figure, corrected by the content and by the level.
#[derive(Clone, Copy, Debug)]
struct Scale {
    content: f64,
    levels: [f64; LEVELS.len()],
}

impl Scale {
    const NEUTRAL: Self = Self {
        content: 1.0,
        levels: [1.0; LEVELS.len()],
    };

    fn at(&self, level: usize) -> f64 {
        self.content * self.levels[level]
    }

    /// Moves the estimate of `level` towards the truth, `error` times as large.
    fn correct(&mut self, level: usize, error: f64) {
        let moved =
            |scale: f64, weight| (scale * error.powf(weight)).clamp(1.0 / MAX_SCALE, MAX_SCALE);
        self.content = moved(self.content, CONTENT_WEIGHT);
        self.levels[level] = moved(self.levels[level], LEVEL_WEIGHT);
    }
}

/// Chooses the codec of one stream's blocks.
#[derive(Clone, Debug)]
pub struct CodecChooser {
    compression: Compression,
    link: f64,
    /// Whether `link` is no measurement: the first guess, or grown since.
    link_assumed: bool,
    growth_patience: u32,
    until_growth: u32,
    speed: Scale,
    ratio: Scale,
    current: Codec,
    blocks_to_try: u32,
    try_blocks: u32,
    try_up: bool,
}

impl CodecChooser {
    /// A chooser that has measured nothing yet.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        let mut chooser = Self {
            compression,
            link: ASSUMED_LINK,
            link_assumed: true,
            growth_patience: FIRST_GROWTH_PATIENCE,
            until_growth: FIRST_GROWTH_PATIENCE,
            speed: Scale::NEUTRAL,
            ratio: Scale::NEUTRAL,
            current: Codec::Raw,
            blocks_to_try: FIRST_TRY_BLOCKS,
            try_blocks: FIRST_TRY_BLOCKS,
            try_up: false,
        };
        chooser.decide();
        chooser
    }

    /// The same for one of `streams` that share the link: until it is measured, each is assumed to
    /// have its part of it.
    #[must_use]
    pub fn sharing(mut self, streams: usize) -> Self {
        self.link /= streams.max(1) as f64;
        self.decide();
        self
    }

    /// The codec in use, tries aside.
    #[must_use]
    pub fn current(&self) -> Codec {
        self.current
    }

    /// The codec of the next block, which may be a try.
    pub fn next_block(&mut self) -> Codec {
        if self.compression != Compression::Auto {
            return self.current;
        }
        self.blocks_to_try = self.blocks_to_try.saturating_sub(1);
        if self.blocks_to_try > 0 {
            return self.current;
        }
        self.try_up = !self.try_up;
        let tried = match self.current {
            Codec::Raw => 0,
            Codec::Zstd(level) => match (index_of(level), self.try_up) {
                (Some(at), true) => (at + 1).min(LEVELS.len() - 1),
                (Some(at), false) => at.saturating_sub(1),
                (None, _) => 0,
            },
        };
        let tried = Codec::Zstd(LEVELS[tried].0);
        let slower =
            self.predicted_bytes_per_second(self.current) / self.predicted_bytes_per_second(tried);
        self.try_blocks = (self.try_blocks * 2).min(MAX_TRY_BLOCKS);
        // A cast of what is too large, or no number, stays in range.
        self.blocks_to_try = self.try_blocks.max((slower / TRY_SHARE) as u32);
        tried
    }

    /// Takes in that `bytes_in` bytes became `bytes_out` at `level` within `took`.
    pub fn observe_compress(&mut self, level: i8, bytes_in: u64, bytes_out: u64, took: Duration) {
        let Some(at) = index_of(level) else { return };
        if bytes_in == 0 || took.is_zero() {
            return;
        }
        let speed = bytes_in as f64 / took.as_secs_f64();
        let ratio = bytes_out.max(1) as f64 / bytes_in as f64;
        let (_, typical_speed, typical_ratio) = LEVELS[at];
        let estimate = typical_speed * self.speed.at(at);
        self.speed.correct(at, speed / estimate);
        let estimate = typical_ratio * self.ratio.at(at);
        self.ratio.correct(at, ratio / estimate);
        self.decide();
    }

    /// Takes in that this stream's share of the link took `bytes` within `took`, encoding them
    /// included, for the link was busy with earlier ones then. With `waited`
    /// false there was not always something to send: then the link is at least that fast, and
    /// assumed to be somewhat faster than thought, so that a slow codec cannot make a link look
    /// slow for ever.
    pub fn observe_link(&mut self, bytes: u64, took: Duration, waited: bool) {
        if bytes == 0 || took.is_zero() {
            return;
        }
        let speed = bytes as f64 / took.as_secs_f64();
        if waited && self.link_assumed {
            let right = speed >= self.link * ASSUMED_REACHED;
            let patience = if right { 1 } else { self.growth_patience * 2 };
            self.growth_patience = patience.clamp(MIN_GROWTH_PATIENCE, MAX_GROWTH_PATIENCE);
            self.until_growth = self.growth_patience;
            self.link = speed;
            self.link_assumed = false;
        } else if waited {
            self.link += (speed - self.link) * LINK_WEIGHT;
        } else {
            self.until_growth = self.until_growth.saturating_sub(1);
            if self.until_growth == 0 {
                self.link = (self.link * LINK_GROWTH).min(MAX_LINK);
                self.until_growth = self.growth_patience;
                self.link_assumed = true;
            }
            self.link = self.link.max(speed);
        }
        self.decide();
    }

    /// Guest bytes per second that this codec moves.
    #[must_use]
    pub fn predicted_bytes_per_second(&self, codec: Codec) -> f64 {
        let Codec::Zstd(level) = codec else {
            return self.link;
        };
        let Some(at) = index_of(level) else {
            return 0.0;
        };
        let (_, speed, ratio) = LEVELS[at];
        (speed * self.speed.at(at)).min(self.link / (ratio * self.ratio.at(at)))
    }

    fn decide(&mut self) {
        self.current = match self.compression {
            Compression::Off => Codec::Raw,
            Compression::Level(level) => Codec::Zstd(level.clamp(LEVELS[0].0, LEVELS[4].0)),
            Compression::Auto => {
                let (mut best, mut gain) = (self.current, MIN_GAIN);
                let now = self.predicted_bytes_per_second(self.current);
                let others = LEVELS.iter().map(|&(level, ..)| Codec::Zstd(level));
                for codec in others.chain([Codec::Raw]) {
                    let codec_gain = self.predicted_bytes_per_second(codec) / now;
                    if codec_gain > gain {
                        (best, gain) = (codec, codec_gain);
                    }
                }
                // A codec barely ahead of raw is not worth its CPU time, which the guest may need.
                if self.predicted_bytes_per_second(best) < self.link * MIN_GAIN {
                    best = Codec::Raw;
                }
                if best != self.current {
                    self.try_blocks = FIRST_TRY_BLOCKS;
                    self.blocks_to_try = FIRST_TRY_BLOCKS;
                }
                best
            }
        };
    }
}

fn index_of(level: i8) -> Option<usize> {
    LEVELS.iter().position(|&(known, ..)| known == level)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 256 << 10;

    /// A machine whose levels are `speed` times as fast as typical ones and whose content
    /// compresses to `ratio` of the typical; sends blocks over a link until the choice settles.
    /// Returns guest bytes per second reached by the last blocks.
    fn run(chooser: &mut CodecChooser, link: f64, speed: f64, ratio: f64) -> f64 {
        let mut moved = (0.0, 0.0);
        for block in 0..4000 {
            let codec = chooser.next_block();
            let (compress_seconds, bytes_out) = match codec {
                Codec::Raw => (0.0, BLOCK as f64),
                Codec::Zstd(level) => {
                    let (_, typical_speed, typical_ratio) = LEVELS[index_of(level).unwrap()];
                    let seconds = BLOCK as f64 / (typical_speed * speed);
                    let bytes_out = BLOCK as f64 * (typical_ratio * ratio).min(1.0);
                    let took = Duration::from_secs_f64(seconds);
                    chooser.observe_compress(level, BLOCK, bytes_out as u64, took);
                    (seconds, bytes_out)
                }
            };
            let link_seconds = bytes_out / link;
            let seconds = link_seconds.max(compress_seconds);
            let waited = link_seconds >= compress_seconds;
            chooser.observe_link(bytes_out as u64, Duration::from_secs_f64(seconds), waited);
            if block >= 2000 {
                moved = (moved.0 + BLOCK as f64, moved.1 + seconds);
            }
        }
        moved.0 / moved.1
    }

    fn best_possible(link: f64, speed: f64, ratio: f64) -> f64 {
        LEVELS.iter().fold(link, |best, &(_, s, r)| {
            best.max((s * speed).min(link / (r * ratio).min(1.0)))
        })
    }

    #[test]
    fn whatever_the_link_and_the_machine_it_comes_close_to_the_best_codec() {
        for link in [10e6, 125e6, 400e6, 1.25e9, 3e9, 12e9] {
            for speed in [0.1, 0.5, 1.0, 3.0] {
                for ratio in [0.2, 1.0, 1.6, 3.0] {
                    let mut chooser = CodecChooser::new(Compression::Auto);
                    let reached = run(&mut chooser, link, speed, ratio);
                    let best = best_possible(link, speed, ratio);
                    assert!(
                        reached >= 0.85 * best && reached >= 0.95 * link,
                        "link {link} speed {speed} ratio {ratio}: {reached} of {best}, {chooser:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_link_that_turns_fast_is_noticed_although_the_codec_is_slow() {
        let mut chooser = CodecChooser::new(Compression::Auto);
        run(&mut chooser, 10e6, 1.0, 1.0);
        assert_eq!(chooser.current(), Codec::Zstd(3));
        run(&mut chooser, 12e9, 1.0, 1.0);
        assert_eq!(chooser.current(), Codec::Raw);
        run(&mut chooser, 10e6, 1.0, 1.0);
        assert_eq!(chooser.current(), Codec::Zstd(3));
    }

    #[test]
    fn the_same_observations_make_the_same_choices() {
        let choices = || {
            let mut chooser = CodecChooser::new(Compression::Auto);
            chooser.observe_link(1 << 20, Duration::from_millis(9), true);
            (0..500).map(|_| chooser.next_block()).collect::<Vec<_>>()
        };
        assert_eq!(choices(), choices());
        let tries = choices()
            .iter()
            .filter(|&&codec| codec != choices()[0])
            .count();
        assert!((1..10).contains(&tries), "{tries} tries in 500 blocks");
    }

    #[test]
    fn one_of_many_streams_compresses_from_the_start() {
        let alone = CodecChooser::new(Compression::Auto);
        assert_eq!(alone.current(), Codec::Raw);
        assert!(matches!(alone.clone().sharing(4).current(), Codec::Zstd(_)));
        assert_eq!(alone.sharing(0).current(), Codec::Raw);
    }

    #[test]
    fn the_users_choice_stands() {
        for (compression, codec) in [
            (Compression::Off, Codec::Raw),
            (Compression::Level(1), Codec::Zstd(1)),
            (Compression::Level(19), Codec::Zstd(3)),
        ] {
            let mut chooser = CodecChooser::new(compression);
            run(&mut chooser, 125e6, 1.0, 3.0);
            assert!(
                (0..5000).all(|_| chooser.next_block() == codec),
                "{compression:?}"
            );
        }
    }

    #[test]
    fn observations_of_nothing_change_nothing() {
        let mut chooser = CodecChooser::new(Compression::Auto);
        chooser.observe_compress(1, 0, 0, Duration::ZERO);
        chooser.observe_compress(99, 1, 1, Duration::from_secs(1));
        chooser.observe_link(0, Duration::from_secs(1), true);
        chooser.observe_link(1, Duration::ZERO, true);
        assert_eq!(chooser.predicted_bytes_per_second(Codec::Raw), ASSUMED_LINK);
    }
}
