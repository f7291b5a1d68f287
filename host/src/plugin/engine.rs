//! The engine: compiles components, has room for their instances and keeps the clock of deadlines.
//!
//! Invariant: the clock ticks as long as the engine lives, so a guest that spins is always interrupted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use wasmtime::component::{Component as Compiled, Linker};
use wasmtime::{Config as WasmConfig, Engine as Wasm, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::bind::{Plugin, PluginPre};
use super::guest::Guest;
use super::limits::{CORE_INSTANCES_MAX, MEMORIES_MAX, Pool, TABLE_ENTRIES_MAX, TABLES_MAX, clean};
use super::{PluginError, bundled, cache};
use crate::config::Config;

/// Time between two ticks of the clock of deadlines.
pub const TICK: Duration = Duration::from_millis(10);
/// Largest component: a larger one is a mistake, and compiling has no deadline.
const COMPONENT_BYTES_MAX: u64 = 64 << 20;
const STACK_BYTES_MAX: usize = 1 << 20;
/// Every interface that a plugin may import stands in this package.
const PACKAGE: &str = "anabranch:plugin/";
/// Imports that a message names.
const IMPORTS_SHOWN_MAX: usize = 10;
/// What one linear memory can have at most.
const MEMORY_BYTES_MAX: usize = 4 << 30;

/// How many instances an engine has room for, and how large the largest may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Instances alive at one time.
    pub instances: usize,
    /// Bytes of memory of any one.
    pub memory_max: usize,
}

impl Room {
    /// Instances beyond those that workers need: for plugins that have one per partition.
    pub const PER_PARTITION: usize = 1000;

    /// What a configuration needs: an instance of each step for each worker, and some to spare.
    pub fn of(config: &Config) -> Self {
        let of_route = |route: &crate::config::Route| route.through.len() * route.workers.max(1) as usize;
        let steps = config.routes.values().flat_map(|route| &route.through);
        let memory = steps.map(|step| config.plugins[&step.plugin].limits.memory_max.get() as usize);
        Room { instances: config.routes.values().map(of_route).sum::<usize>() + Room::PER_PARTITION, memory_max: memory.max().unwrap_or(0) }
    }
}

impl Default for Room {
    fn default() -> Self {
        Room { instances: Room::PER_PARTITION, memory_max: MEMORY_BYTES_MAX }
    }
}

/// Compiles components; one per process, clones share it.
#[derive(Clone)]
pub struct Engine {
    wasm: Wasm,
    linker: Arc<Linker<Guest>>,
    pool: Arc<Pool>,
    cache: Option<PathBuf>,
    _clock: Arc<Clock>,
}

/// The ticking thread; it ends with the engine.
struct Clock(Option<std::sync::mpsc::Sender<()>>);

impl Drop for Clock {
    fn drop(&mut self) {
        self.0.take();
    }
}

/// A component that is ready to be instantiated.
pub struct Component {
    /// Its name in the configuration.
    pub name: String,
    /// SHA-256 of its bytes, hexadecimal.
    pub digest: String,
    pub(super) pre: PluginPre<Guest>,
    pub(super) wasm: Wasm,
    pub(super) pool: Arc<Pool>,
}

impl std::fmt::Debug for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Component").field("name", &self.name).field("digest", &self.digest).finish_non_exhaustive()
    }
}

fn settings() -> WasmConfig {
    let mut settings = WasmConfig::new();
    settings.epoch_interruption(true);
    settings.max_wasm_stack(STACK_BYTES_MAX);
    settings.wasm_component_model(true);
    settings
}

/// Slots for instances, reserved once: starting one takes no system call for its memory, and their number has a ceiling.
fn slots(room: Room) -> PoolingAllocationConfig {
    let count = |each: usize| u32::try_from(room.instances.max(1).saturating_mul(each)).unwrap_or(u32::MAX);
    let mut slots = PoolingAllocationConfig::new();
    slots.total_component_instances(count(1));
    slots.total_memories(count(MEMORIES_MAX));
    // Of components made from Rust; those of other languages take the slots of several.
    slots.total_core_instances(count(4));
    slots.total_tables(count(2));
    slots.total_stacks(1);
    slots.max_memories_per_component(MEMORIES_MAX as u32);
    slots.max_core_instances_per_component(CORE_INSTANCES_MAX as u32);
    slots.max_tables_per_component(TABLES_MAX as u32);
    slots.table_elements(TABLE_ENTRIES_MAX);
    slots.max_memory_size(room.memory_max.next_multiple_of(64 << 10).clamp(64 << 10, MEMORY_BYTES_MAX));
    slots
}

impl Engine {
    /// An engine with room for any configuration, with its clock ticking.
    ///
    /// # Errors
    /// Where the machine cannot run compiled WebAssembly.
    pub fn new() -> Result<Engine, PluginError> {
        Engine::with(Room::default(), cache::folder())
    }

    /// An engine with room for what a configuration needs.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn of(config: &Config) -> Result<Engine, PluginError> {
        Engine::with(Room::of(config), cache::folder())
    }

    /// An engine with so much room, which keeps compiled code in the folder `cache`.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn with(room: Room, cache: Option<PathBuf>) -> Result<Engine, PluginError> {
        let error = |reason: String| PluginError { plugin: "*".to_owned(), reason };
        let mut pooled = settings();
        pooled.allocation_strategy(InstanceAllocationStrategy::Pooling(slots(room)));
        let wasm = Wasm::new(&pooled).or_else(|problem| {
            // Slots are address space of 4 GiB each, which containers and `ulimit -v` may limit.
            tracing::warn!(instances = room.instances, "no address space for the plugins' slots, so each start takes longer: {problem:#}");
            Wasm::new(&settings())
        });
        let wasm = wasm.map_err(|problem| error(format!("{problem:#}")))?;
        let mut linker = Linker::new(&wasm);
        Plugin::add_to_linker::<_, wasmtime::component::HasSelf<Guest>>(&mut linker, |guest| guest)
            .map_err(|problem| error(problem.to_string()))?;
        let (alive, ended) = std::sync::mpsc::channel::<()>();
        let ticking = wasm.weak();
        std::thread::Builder::new()
            .name("plugin-clock".to_owned())
            .spawn(move || {
                while ended.recv_timeout(TICK) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                    let Some(wasm) = ticking.upgrade() else { return };
                    wasm.increment_epoch();
                }
            })
            .map_err(|problem| error(format!("no thread for the clock of deadlines: {problem}")))?;
        let pool = Arc::new(Pool::of_this_machine());
        Ok(Engine { wasm, linker: Arc::new(linker), pool, cache, _clock: Arc::new(Clock(Some(alive))) })
    }

    /// Bytes that the memories of all instances may have together.
    pub fn memory_max(&self) -> usize {
        self.pool.max()
    }

    /// Loads a component from a file, or a bundled one where `path` is `None`. `sha256`: the digest it must have.
    ///
    /// # Errors
    /// Where it cannot be read, is no component, has another digest or wants what plugins do not get.
    pub fn load(&self, name: &str, path: Option<&Path>, sha256: Option<&str>) -> Result<Arc<Component>, PluginError> {
        let error = |reason: String| PluginError { plugin: name.to_owned(), reason };
        let bytes = match path {
            Some(path) => {
                let shown = path.display();
                let length = std::fs::metadata(path).map_err(|problem| error(format!("{shown}: {problem}")))?.len();
                if length > COMPONENT_BYTES_MAX {
                    return Err(error(format!("{shown} has {length} bytes, a component has at most {COMPONENT_BYTES_MAX}")));
                }
                std::fs::read(path).map_err(|problem| error(format!("{shown}: {problem}")))?
            }
            None => match bundled().iter().find(|(known, _)| *known == name) {
                Some((_, bytes)) => bytes.to_vec(),
                None => {
                    return Err(error(
                        "this build has no bundled plugins: run `make plugins` and build the host again, or give it a `path`".to_owned(),
                    ));
                }
            },
        };
        self.compile(name, &bytes, sha256)
    }

    /// Compiles the bytes of a component.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn compile(&self, name: &str, bytes: &[u8], sha256: Option<&str>) -> Result<Arc<Component>, PluginError> {
        let error = |reason: String| PluginError { plugin: name.to_owned(), reason };
        let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        if let Some(wanted) = sha256
            && !wanted.eq_ignore_ascii_case(&digest)
        {
            return Err(error(format!(
                "its SHA-256 is {digest}, the configuration demands {wanted}: it is not the component that was approved"
            )));
        }
        let kept = self.cache.as_deref().map(|folder| cache::path(folder, &self.wasm, &digest));
        let component = match kept.as_deref().and_then(|path| cache::load(&self.wasm, path)) {
            Some(component) => component,
            None => {
                let component = Compiled::new(&self.wasm, bytes).map_err(|problem| {
                    let problem = clean(&format!("{problem:#}"));
                    error(format!("it is no valid component: {problem}; core modules are made into components by `wasm-component-ld`"))
                })?;
                if let Some(path) = kept {
                    cache::store(&path, &component);
                }
                component
            }
        };
        let kind = component.component_type();
        let forbidden: Vec<String> =
            kind.imports(&self.wasm).map(|(import, _)| clean(import)).filter(|import| !import.starts_with(PACKAGE)).collect();
        if !forbidden.is_empty() {
            let more = forbidden.len().saturating_sub(IMPORTS_SHOWN_MAX);
            let shown = forbidden[..forbidden.len() - more].join(", ");
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            return Err(error(format!(
                "it imports {shown}{more}: plugins get no files, network, environment or clock of the system; build it without WASI: Rust \
                 for wasm32-unknown-unknown, JavaScript with every feature in `disableFeatures`, Python with --stub-wasi"
            )));
        }
        let pre = self.linker.instantiate_pre(&component).and_then(PluginPre::new).map_err(|problem| {
            let problem = clean(&format!("{problem:#}"));
            error(format!("it does not fit this router's contract ({PACKAGE}*): {problem}; build it against the same version of the SDK"))
        })?;
        Ok(Arc::new(Component { name: name.to_owned(), digest, pre, wasm: self.wasm.clone(), pool: self.pool.clone() }))
    }
}
