//! Random lives: processes that are killed, paused and replaced, partitions that come and go, batches that are dropped, dead
//! letters. Afterwards every good record is in the table once, and every bad one was a dead letter.

use std::collections::BTreeSet;

use apache_avro::types::Value as Avro;
use tokio::task::JoinHandle;

use super::lake::Lake;
use super::route::{ORDER, Route, WAIT_MAX, one_table, order, send};
use crate::ack::{Slot, TopicPartition};
use crate::config::DurationText;
use crate::sink::delta::Config;
use crate::sink::delta::config::Batch;
use crate::sink::{Message, Outbox, Piece, SinkError};
use crate::value::Format;

const PARTITIONS: usize = 3;
const RECORDS: i64 = 60;

/// xorshift64*: the same numbers for the same seed, on every machine.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % sides
    }
}

fn id(partition: usize, offset: i64) -> i64 {
    partition as i64 * 1_000 + offset
}

fn is_bad(offset: i64) -> bool {
    offset % 13 == 5
}

/// What outlives the processes: the group's offsets, and the dead letters that are durable.
#[derive(Default)]
struct World {
    committed: [i64; PARTITIONS],
    letters: BTreeSet<i64>,
}

/// One process.
struct Life {
    route: Route,
    outbox: Outbox,
    task: JoinHandle<Result<(), SinkError>>,
    reading: [Option<(Slot, i64)>; PARTITIONS],
}

impl Life {
    fn start(config: &Config, world: &World) -> Life {
        let route = Route::new();
        let (outbox, task) = route.start(config);
        let mut life = Life { route, outbox, task, reading: [None; PARTITIONS] };
        (0..PARTITIONS).for_each(|partition| life.assign(partition, world));
        life
    }

    fn assign(&mut self, partition: usize, world: &World) {
        let start = world.committed[partition];
        let slot = self.route.acks.assign(TopicPartition { topic: "orders".into(), partition: partition as i32 }, Some(start));
        self.reading[partition] = Some((slot, start));
    }

    fn revoke(&mut self, partition: usize, world: &mut World) {
        let Some((slot, _)) = self.reading[partition].take() else { return };
        self.route.acks.revoke(&[slot], |offsets| offsets.into_iter().for_each(|due| world.committed[partition] = due.offset));
        self.outbox.send(Message::Abandon(slot));
    }

    /// The control thread: partitions that want it are read again.
    fn rewind(&mut self) {
        for rewind in self.route.acks.take_rewinds() {
            let partition = rewind.name.partition as usize;
            self.outbox.send(Message::Abandon(rewind.old));
            self.route.acks.rewound(rewind.slot);
            self.reading[partition] = Some((rewind.slot, rewind.from.expect("known")));
        }
    }

    fn next_piece(&mut self, partition: usize, length: i64) -> Option<Piece> {
        let (slot, next) = self.reading[partition]?;
        let end = (next + length).min(RECORDS);
        if next >= end {
            return None;
        }
        self.reading[partition] = Some((slot, end));
        let handle = self.route.schemas.register(ORDER).expect("a schema");
        let schema = apache_avro::Schema::parse_str(ORDER).expect("a schema");
        let encode = |order: Avro| apache_avro::to_avro_datum(&schema, order).expect("fits");
        let value = |offset| if is_bad(offset) { vec![0xff] } else { encode(order(id(partition, offset))) };
        Some(self.route.piece_of(slot, partition as i32, next, Format::Avro, handle, (next..end).map(|at| Some(value(at))).collect()))
    }

    /// The sink for dead letters writes what came, or loses it with the process.
    fn write_letters(&mut self, world: &mut World) {
        while let Some(Message::Piece(piece)) = self.route.letters.try_next() {
            for view in piece.iter() {
                world.letters.insert(id(view.partition() as usize, view.offset()));
            }
            piece.token.settle();
        }
    }

    fn commit(&self, world: &mut World) {
        for due in self.route.acks.take_committable(None) {
            world.committed[due.name.partition as usize] = due.offset;
        }
    }

    async fn step(&mut self, dice: &mut Dice, world: &mut World, owns: bool) {
        self.rewind();
        let partition = dice.below(PARTITIONS as u64) as usize;
        match dice.below(20) {
            0..12 => {
                if let Some(piece) = self.next_piece(partition, 1 + dice.below(6) as i64) {
                    send(&self.outbox, piece);
                }
            }
            12 => drop(self.next_piece(partition, 3)),
            13 | 14 => self.write_letters(world),
            15 if owns => self.commit(world),
            16 if owns => {
                self.revoke(partition, world);
                self.assign(partition, world);
            }
            _ => {
                for _ in 0..dice.below(50) {
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    fn has_read_everything(&self) -> bool {
        self.reading.iter().flatten().all(|(_, next)| *next >= RECORDS) && self.route.acks.is_idle()
    }
}

async fn lives(seed: u64) {
    let mut dice = Dice(seed);
    let (lake, mut world) = (Lake::new(), World::default());
    let batch = Batch { rows_max: 5, age_max: DurationText::ms(3), ..Batch::default() };
    let config = Config { batch, checkpoint_interval: 6, ..one_table(&lake) };
    let mut zombie: Option<Life> = None;
    for _ in 0..4 {
        let mut life = Life::start(&config, &world);
        for _ in 0..60 {
            life.step(&mut dice, &mut world, true).await;
            if let Some(zombie) = &mut zombie {
                zombie.step(&mut dice, &mut world, false).await;
            }
        }
        if let Some(zombie) = zombie.take() {
            zombie.task.abort();
        }
        // Killed, or paused: it goes on beside its successor and does not know.
        if dice.below(2) == 0 { life.task.abort() } else { zombie = Some(life) }
    }
    drop(zombie);
    let mut life = Life::start(&config, &world);
    let began = std::time::Instant::now();
    while !life.has_read_everything() {
        assert!(began.elapsed() < WAIT_MAX, "seed {seed}: waited {WAIT_MAX:?} for everything to be read");
        assert!(!life.task.is_finished(), "seed {seed}: {:?}", life.task.await);
        life.rewind();
        for partition in 0..PARTITIONS {
            if let Some(piece) = life.next_piece(partition, 7) {
                send(&life.outbox, piece);
            }
        }
        life.write_letters(&mut world);
        life.commit(&mut world);
        tokio::task::yield_now().await;
    }
    let Life { outbox, task, .. } = life;
    drop(outbox);
    task.await.expect("no panic").expect("written");
    let records = || (0..PARTITIONS).flat_map(|partition| (0..RECORDS).map(move |offset| (partition, offset)));
    let good: Vec<i64> = records().filter(|(_, offset)| !is_bad(*offset)).map(|(partition, offset)| id(partition, offset)).collect();
    let bad: BTreeSet<i64> = records().filter(|(_, offset)| is_bad(*offset)).map(|(partition, offset)| id(partition, offset)).collect();
    assert_eq!(lake.ids().await, good, "seed {seed}: each good record is in the table once");
    assert_eq!(world.letters, bad, "seed {seed}: each bad record is a dead letter, and no other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_missing_and_nothing_is_there_twice_after_many_lives() {
    // Few in the suite; ANABRANCH_CHAOS_SEEDS=1000 to search.
    let seeds = std::env::var("ANABRANCH_CHAOS_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(12_u64);
    for seed in 1..=seeds {
        lives(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)).await;
    }
}
