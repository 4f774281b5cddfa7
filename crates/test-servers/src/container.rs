//! Containers on the Docker engine of this machine, through testcontainers.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use futures_util::StreamExt as _;
use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::{getgid, getpid, getuid};
use rustix::system::uname;
use testcontainers::bollard::Docker;
use testcontainers::bollard::query_parameters::{
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, WaitContainerOptionsBuilder,
};
use testcontainers::core::client::docker_client_instance;
use testcontainers::core::logs::LogFrame;
use testcontainers::core::{AccessMode, Mount};
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{GenericImage, ImageExt as _, TestcontainersError};
use tokio::runtime::Runtime;
use tokio::time::{Instant, timeout, timeout_at};

use crate::source::say;

/// How long the engine and the registry may take to find out whether an image is available.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The path, in the container, of the pipe that is its script's input.
const PIPE: &str = "/usher-test-server";
/// The label that names the process to which a container belongs.
const OWNER: &str = "usher-test-server.owner";

/// A container that runs a script. The engine removes it when the script ends.
#[derive(Debug)]
pub(crate) struct Container {
    id: String,
}

impl Container {
    /// Runs a script with the network, the process ids and a folder of this machine, and sends the lines of its log to
    /// `lines`. Returns the pipe that is the script's input: it closes when this process ends, even by a kill.
    ///
    /// # Panics
    /// If the engine does not start the container.
    pub(crate) fn run(
        image: &str,
        script: &str,
        folder: &str,
        options: &[&str],
        lines: Sender<String>,
    ) -> (File, Self) {
        static SWEPT: OnceLock<()> = OnceLock::new();
        SWEPT.get_or_init(|| block_on(sweep()));
        let pipe = tempfile::Builder::new().prefix("usher-test-server-").make(|path| {
            mkfifoat(CWD, path, Mode::from_raw_mode(0o644))?;
            // Opened for reading as well: opening a pipe only for writing waits for its reader, the container.
            OpenOptions::new().read(true).write(true).open(path)
        });
        let pipe = pipe.expect("a pipe can be made");
        let script = format!("exec <{PIPE}\n{script}");
        let command = ["-c", &script, "sh", folder].into_iter().chain(options.iter().copied());
        let mount = Mount::bind_mount(pipe.path().to_string_lossy(), PIPE).with_access_mode(AccessMode::ReadOnly);
        let request = generic(image)
            .with_entrypoint("sh")
            .with_cmd(command)
            .with_user(format!("{}:{}", getuid().as_raw(), getgid().as_raw()))
            .with_label(OWNER, owner())
            .with_mount(mount)
            // Tests read the servers' files, and the script removes them.
            .with_mount(Mount::bind_mount(folder, folder))
            .with_host_config_modifier(|host| {
                host.auto_remove = Some(true);
                host.network_mode = Some("host".to_owned());
                host.pid_mode = Some("host".to_owned());
            })
            .with_log_consumer(move |frame: &LogFrame| {
                for line in String::from_utf8_lossy(frame.bytes()).lines() {
                    let _nobody_waits_for_it = lines.send(line.to_owned());
                }
            });
        let started = block_on(async move {
            let container = request.start().await?;
            let id = container.id().to_owned();
            // The engine removes the container: a destructor would not run in a process that is killed.
            std::mem::forget(container);
            Ok::<_, TestcontainersError>(id)
        });
        let id = started.unwrap_or_else(|error| panic!("cannot start a container of {image}: {error}"));
        // The container has its own mount of the pipe, so the name is not needed any more.
        let (input, _path) = pipe.into_parts();
        (input, Self { id })
    }

    /// Waits until the engine has removed the container, and its ports are free.
    pub(crate) fn wait_until_removed(&self) {
        let id = self.id.clone();
        block_on(async move {
            let docker = docker_client_instance().await.expect("the Docker engine still answers");
            let removed = WaitContainerOptionsBuilder::new().condition("removed").build();
            // An error means that the container is gone already.
            let _status = docker.wait_container(&id, Some(removed)).next().await;
        });
    }
}

/// Whether the engine of this machine has an image. Asks no registry.
pub fn has_image(image: &str) -> bool {
    let image = image.to_owned();
    let has = async move {
        match Engine::find().await {
            Ok(engine) => engine.has(&image).await,
            Err(_) => false,
        }
    };
    block_on(timeout(ANSWER_MAX, has)).unwrap_or(false)
}

/// Finds out within 10 s which of these images the engine has or can pull, and pulls the missing ones. Returns the
/// engine's version and the images that it has then, or the reason why there is no engine.
pub(crate) async fn provide(images: Vec<&'static str>) -> Result<(String, Vec<&'static str>), &'static str> {
    let deadline = Instant::now() + ANSWER_MAX;
    let engine = timeout_at(deadline, Engine::find()).await.unwrap_or(Err("the Docker engine does not answer"))?;
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    for image in images {
        if timeout_at(deadline, engine.has(image)).await.unwrap_or(false) {
            there.push(image);
        } else if timeout_at(deadline, engine.can_pull(image)).await.unwrap_or(false) {
            missing.push(image);
        }
    }
    for image in missing {
        say(&format!("containers: pulling {image}"));
        match generic(image).pull_image().await {
            Ok(_) => there.push(image),
            Err(error) => say(&format!("containers: {error}")),
        }
    }
    Ok((engine.version, there))
}

/// The Docker engine of this machine.
struct Engine {
    docker: Docker,
    version: String,
}

impl Engine {
    /// Finds the engine.
    ///
    /// # Errors
    /// The reason why there is none.
    async fn find() -> Result<Self, &'static str> {
        let Ok(docker) = docker_client_instance().await else { return Err("no Docker engine") };
        let Ok(info) = docker.info().await else { return Err("no Docker engine") };
        // Containers share the network and the process ids with the tests.
        if info.name.as_deref() != uname().nodename().to_str().ok() {
            return Err("the Docker engine is on another machine");
        }
        Ok(Self { docker, version: info.server_version.unwrap_or_default() })
    }

    async fn has(&self, image: &str) -> bool {
        self.docker.inspect_image(image).await.is_ok()
    }

    async fn can_pull(&self, image: &str) -> bool {
        self.docker.inspect_registry_image(image, None).await.is_ok()
    }
}

/// Blocks on a call to the engine. The call runs on a runtime of its own, because the caller may be inside of another.
pub(crate) fn block_on<T: Send + 'static>(call: impl Future<Output = T> + Send + 'static) -> T {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));
    let (sender, answer) = mpsc::channel();
    RUNTIME.spawn(async move { sender.send(call.await) });
    answer.recv().expect("the call does not panic")
}

fn generic(image: &str) -> GenericImage {
    let (name, tag) = image.rsplit_once(':').unwrap_or((image, "latest"));
    GenericImage::new(name, tag)
}

/// This process: its namespace and its process id.
fn owner() -> String {
    format!("{}/{}", process_namespace(), getpid().as_raw_nonzero())
}

fn process_namespace() -> String {
    fs::read_link("/proc/self/ns/pid").expect("this is Linux").to_string_lossy().into_owned()
}

/// Removes containers of processes that were killed between creating and starting one.
async fn sweep() {
    let Ok(docker) = docker_client_instance().await else { return };
    // A container that runs removes its own data, and ends with its owner.
    let filters = HashMap::from([("label", vec![OWNER]), ("status", vec!["created"])]);
    let all = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let containers = docker.list_containers(Some(all)).await.unwrap_or_default();
    for container in containers {
        let Some(owner) = container.labels.as_ref().and_then(|labels| labels.get(OWNER)) else { continue };
        if has_ended(owner) {
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            // If this fails, another process has removed it.
            let _removed = docker.remove_container(&container.id.unwrap_or_default(), Some(options)).await;
        }
    }
}

/// Whether an owner is a process of this machine that has ended.
fn has_ended(owner: &str) -> bool {
    let Some((namespace, process)) = owner.rsplit_once('/') else { return false };
    namespace == process_namespace() && !Path::new("/proc").join(process).exists()
}

#[cfg(test)]
mod tests {
    use testcontainers::bollard::models::ContainerCreateBody;
    use testcontainers::bollard::query_parameters::{CreateContainerOptions, InspectContainerOptions};

    use super::*;
    use crate::redis_server;

    /// Above the highest process id of Linux.
    const NO_PROCESS: u32 = 1 << 23;

    #[test]
    fn an_owner_has_ended_when_its_process_has_and_only_this_machine_tells() {
        assert!(!has_ended(&owner()));
        assert!(has_ended(&format!("{}/{NO_PROCESS}", process_namespace())));
        assert!(!has_ended(&format!("pid:[0]/{NO_PROCESS}")));
        assert!(!has_ended("nonsense"));
    }

    /// One owner was killed between creating and starting a container; another owner is about to start its container.
    #[tokio::test]
    async fn containers_that_were_never_started_are_removed_when_their_owner_has_ended() {
        let Ok(engine) = Engine::find().await else {
            assert!(!has_image(redis_server::KIND.default_image), "without an engine there are no images");
            return;
        };
        if !engine.has(redis_server::KIND.default_image).await {
            assert!(!has_image(redis_server::KIND.default_image));
            return;
        }
        let create = async |owner: String| {
            let body = ContainerCreateBody {
                image: Some(redis_server::KIND.default_image.to_owned()),
                labels: Some(HashMap::from([(OWNER.to_owned(), owner)])),
                ..ContainerCreateBody::default()
            };
            engine.docker.create_container(None::<CreateContainerOptions>, body).await.unwrap().id
        };
        let ended = create(format!("{}/{NO_PROCESS}", process_namespace())).await;
        let live = create(owner()).await;

        sweep().await;

        let is_there =
            async |id: &str| engine.docker.inspect_container(id, None::<InspectContainerOptions>).await.is_ok();
        assert_eq!((is_there(&ended).await, is_there(&live).await), (false, true));
        engine.docker.remove_container(&live, None).await.unwrap();
    }
}
