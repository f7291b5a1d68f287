//! The engine: compiles components and keeps the clock of deadlines.
//!
//! Invariant: the clock ticks as long as the engine lives, so a guest that spins is always interrupted.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use wasmtime::component::{Component as Compiled, InstancePre, Linker};
use wasmtime::{Config, Engine as Wasm};

use super::bind::Plugin;
use super::guest::Guest;
use super::{PluginError, bundled, cache};

/// Time between two ticks of the clock of deadlines.
pub const TICK: Duration = Duration::from_millis(10);
/// Largest component: a larger one is a mistake, and compiling has no deadline.
const COMPONENT_BYTES_MAX: u64 = 64 << 20;
const STACK_BYTES_MAX: usize = 1 << 20;
/// Every interface that a plugin may import stands in this package.
const PACKAGE: &str = "anabranch:plugin/";

/// Compiles components; one per process, clones share it.
#[derive(Clone)]
pub struct Engine {
    wasm: Wasm,
    linker: Arc<Linker<Guest>>,
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
    pub(super) pre: InstancePre<Guest>,
    pub(super) wasm: Wasm,
}

impl std::fmt::Debug for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Component").field("name", &self.name).field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine, with its clock ticking.
    ///
    /// # Errors
    /// Where the machine cannot run compiled WebAssembly.
    pub fn new() -> Result<Engine, PluginError> {
        let error = |reason: String| PluginError { plugin: "*".to_owned(), reason };
        let mut config = Config::new();
        config.epoch_interruption(true);
        config.max_wasm_stack(STACK_BYTES_MAX);
        config.wasm_component_model(true);
        let wasm = Wasm::new(&config).map_err(|problem| error(problem.to_string()))?;
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
        Ok(Engine { wasm, linker: Arc::new(linker), _clock: Arc::new(Clock(Some(alive))) })
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
        let component = match cache::load(&self.wasm, &digest) {
            Some(component) => component,
            None => {
                let component = Compiled::new(&self.wasm, bytes).map_err(|problem| {
                    error(format!("it is no valid component: {problem:#}; core modules are made into components by `wasm-component-ld`"))
                })?;
                cache::store(&self.wasm, &digest, &component);
                component
            }
        };
        let kind = component.component_type();
        let forbidden: Vec<String> =
            kind.imports(&self.wasm).map(|(import, _)| import.to_owned()).filter(|import| !import.starts_with(PACKAGE)).collect();
        if !forbidden.is_empty() {
            return Err(error(format!(
                "it imports {}: plugins get no files, network, environment or clock of the system; build it for wasm32-unknown-unknown \
                 (without WASI)",
                forbidden.join(", ")
            )));
        }
        let pre = self.linker.instantiate_pre(&component).map_err(|problem| {
            error(format!("it does not fit this router's contract ({PACKAGE}*): {problem:#}; build it against the same version of the SDK"))
        })?;
        Ok(Arc::new(Component { name: name.to_owned(), digest, pre, wasm: self.wasm.clone() }))
    }
}
