//! Plugins for the Anabranch stream router, in Rust.
//!
//! A plugin gets records in batches and says what becomes of each: keep it, change it, send it elsewhere, reject it, or leave it out
//! (which filters it). It announces in its plan what it reads and gets nothing else, so reading one field of a large record is cheap.
//!
//! This is a whole plugin:
//!
//! ```
//! use anabranch_guest::{Batch, Context, Failure, Outputs, Plan, Problem, TextField, Transform};
//!
//! /// Keeps paid orders and sends each to the topic path of its country.
//! struct Paid {
//!     status: TextField,
//!     country: TextField,
//!     prefix: String,
//! }
//!
//! #[derive(serde::Deserialize)]
//! struct Config {
//!     prefix: String,
//! }
//!
//! impl Transform for Paid {
//!     type Config = Config;
//!
//!     fn plan(config: Config, _: &Context, plan: &mut Plan) -> Result<Self, Vec<Problem>> {
//!         if config.prefix.is_empty() {
//!             return Err(vec![Problem::at(&["prefix"], "must not be empty")]);
//!         }
//!         Ok(Paid { status: plan.text("status"), country: plan.text("address.country"), prefix: config.prefix })
//!     }
//!
//!     fn process(&mut self, batch: &Batch, out: &mut Outputs) -> Result<(), Failure> {
//!         let (status, country) = (batch.texts(self.status), batch.texts(self.country));
//!         for row in 0..batch.len() {
//!             if status.get(row) != Some("PAID") {
//!                 continue;
//!             }
//!             match country.get(row) {
//!                 Some(country) => {
//!                     out.keep(row).destination(&format!("{}/{country}", self.prefix));
//!                 }
//!                 None => out.reject(row, "no-country", "the order has no country"),
//!             }
//!         }
//!         Ok(())
//!     }
//! }
//!
//! anabranch_guest::export!(Paid);
//!
//! // Its test needs no WebAssembly: `cargo test` runs it.
//! use anabranch_guest::testing::{Decision, Harness};
//! let mut paid = Harness::<Paid>::new(r#"{"prefix": "shop"}"#).unwrap();
//! let decisions = paid
//!     .json(&[
//!         r#"{"status": "PAID", "address": {"country": "DE"}}"#,
//!         r#"{"status": "NEW"}"#,
//!         r#"{"status": "PAID"}"#,
//!     ])
//!     .unwrap();
//! assert_eq!(decisions[0], Decision::kept().to("shop/DE"));
//! assert_eq!(decisions[1], Decision::filtered());
//! assert_eq!(decisions[2], Decision::rejected("no-country", "the order has no country"));
//! assert!(Harness::<Paid>::new(r#"{"prefix": ""}"#).is_err());
//! # fn main() {}
//! ```
//!
//! `plugins/build.sh FOLDER` of the Anabranch repository makes a component of such a crate (with `crate-type = ["cdylib", "rlib"]`);
//! the route names it in its `through`.

mod batch;
mod host;
mod outputs;
mod plan;
pub mod testing;

#[doc(hidden)]
pub mod bindings {
    #![allow(missing_docs, unsafe_code, clippy::all)]
    wit_bindgen::generate!({
        path: "../wit",
        world: "plugin",
        pub_export_macro: true,
        export_macro_name: "export_component",
        default_bindings_module: "anabranch_guest::bindings",
    });
}

pub use batch::{Batch, BinaryColumn, BooleanColumn, FloatColumn, IntegerColumn, TextColumn};
pub use bindings::anabranch::plugin::types::{Encoding, Failure, Part};
pub use host::{Counter, Gauge, Histogram, Level, SchemaField, SchemaInfo, enabled, find_field, log, now_ms, register_schema, schema};
pub use outputs::{Change, OutputRef, Outputs};
pub use plan::{
    BinaryField, BooleanField, Context, DateField, DecimalField, DocumentField, FloatField, Header, IntegerField, Plan, Problem, SetHeader,
    SinkSet, TextField, TimeField, TimestampField, parse_path,
};

/// A plugin.
pub trait Transform: Sized + 'static {
    /// Its configuration, as the route gives it; use `#[serde(deny_unknown_fields)]` so that mistakes are found.
    type Config: serde::de::DeserializeOwned;

    /// Checks the configuration and announces what is read. Runs once per instance, before any record; all instances with one
    /// configuration must announce the same.
    ///
    /// # Errors
    /// Everything that is wrong with the configuration.
    fn plan(config: Self::Config, context: &Context, plan: &mut Plan) -> Result<Self, Vec<Problem>>;

    /// Decides the records of a batch. What is not put into `out` is filtered.
    ///
    /// # Errors
    /// A [`Failure`] concerns the whole batch: with `retry` it is tried again later, otherwise the route stops. What is wrong with one
    /// record is a reject.
    fn process(&mut self, batch: &Batch, out: &mut Outputs) -> Result<(), Failure>;
}

/// Reads the configuration and plans; what `init` of the component does.
#[doc(hidden)]
pub fn start<T: Transform>(context: &Context) -> Result<(T, Plan), Vec<Problem>> {
    // What the dead letter says of a panic stems from here.
    #[cfg(target_arch = "wasm32")]
    std::panic::set_hook(Box::new(|panic| log(Level::Error, &panic.to_string())));
    let mut deserializer = serde_json::Deserializer::from_str(context.config());
    let config = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| vec![Problem::of_serde(&error)])?;
    let mut plan = Plan::new();
    let plugin = T::plan(config, context, &mut plan)?;
    Ok((plugin, plan))
}

/// Makes a component of a [`Transform`].
#[macro_export]
macro_rules! export {
    ($plugin:ty) => {
        const _: () = {
            use $crate::bindings::exports::anabranch::plugin::transform as contract;

            struct Component;

            thread_local! {
                static PLUGIN: ::std::cell::RefCell<::std::option::Option<$plugin>> = const { ::std::cell::RefCell::new(None) };
            }

            impl contract::Guest for Component {
                fn init(context: contract::Context) -> ::std::result::Result<contract::Plan, ::std::vec::Vec<contract::Problem>> {
                    match $crate::start::<$plugin>(&$crate::Context::from(context)) {
                        Ok((plugin, plan)) => {
                            PLUGIN.with(|kept| *kept.borrow_mut() = Some(plugin));
                            Ok(plan.into())
                        }
                        Err(problems) => Err(problems.into_iter().map(Into::into).collect()),
                    }
                }

                fn process(batch: contract::Batch) -> ::std::result::Result<contract::Outputs, contract::Failure> {
                    PLUGIN.with(|kept| {
                        let mut kept = kept.borrow_mut();
                        let plugin = kept.as_mut().expect("the host calls init first");
                        $crate::process(plugin, batch)
                    })
                }
            }

            #[cfg(target_arch = "wasm32")]
    $crate::bindings::export_component!(Component with_types_in $crate::bindings);
        };
    };
}

/// One call of the component's `process`.
#[doc(hidden)]
pub fn process<T: Transform>(
    plugin: &mut T,
    batch: bindings::anabranch::plugin::types::Batch,
) -> Result<bindings::anabranch::plugin::types::Outputs, Failure> {
    let batch = Batch::new(batch);
    let mut out = Outputs::new(batch.len());
    plugin.process(&batch, &mut out)?;
    Ok(out.finish())
}
