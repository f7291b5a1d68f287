//! Tables on disk: what the sink promises, tried with real commits of its own and of others.

mod chaos;
mod commits;
mod doubts;
mod extremes;
mod files;
mod lake;
mod route;
mod speed;
mod whole;
