//! `filter`: keeps or drops records by an expression on their fields.
//!
//! Configuration: `where = "status == 'PAID' and amount >= 10"` and, if wanted, `keep = false` to drop what matches instead.
//!
//! Nulls: a field that is null or not there is `null`. `== null` and `!= null` ask for it. Any other comparison with `null`, `in` and
//! `matches` of it are false, and `not` turns that into true: logic has two values here, not three.

mod expression;
mod parse;

use anabranch_guest::{Batch, Context, Failure, Outputs, Plan, Problem, Transform};

use expression::Expression;

/// The plugin.
pub struct Filter {
    expression: Expression,
    keep: bool,
}

/// Its configuration.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The expression.
    r#where: String,
    /// Keep what matches; false: drop it.
    #[serde(default = "yes")]
    keep: bool,
}

fn yes() -> bool {
    true
}

impl Transform for Filter {
    type Config = Config;

    fn plan(config: Config, _: &Context, plan: &mut Plan) -> Result<Self, Vec<Problem>> {
        let tree = parse::parse(&config.r#where).map_err(|error| vec![Problem::at(&["where"], error.message).within(error.at)])?;
        Ok(Filter { expression: Expression::compile(&tree, plan), keep: config.keep })
    }

    fn process(&mut self, batch: &Batch, out: &mut Outputs) -> Result<(), Failure> {
        for row in 0..batch.len() {
            if self.expression.holds(batch, row) == self.keep {
                out.keep(row);
            }
        }
        Ok(())
    }
}

anabranch_guest::export!(Filter);

#[cfg(test)]
mod tests;
