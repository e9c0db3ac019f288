//! A real S3 server for tests: s3s with a folder of this machine behind it, signatures checked.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s::{S3Result, s3_error};

/// The key that it takes.
pub const ACCESS_KEY: &str = "AKIDEXAMPLE";
/// The secret of that key.
pub const SECRET_KEY: &str = "s3cr3t-t0ken";

/// A server on loopback; it ends with the process.
pub struct ObjectStore {
    address: SocketAddr,
    folder: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

impl ObjectStore {
    /// Start it with an empty bucket.
    ///
    /// # Errors
    /// There is no port or no temporary folder.
    pub fn start(bucket: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join(bucket))?;
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let files = s3s_fs::FileSystem::new(folder.path()).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        service.set_access(Witness(asked.clone()));
        let service = service.build();
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
                while let Ok((socket, _)) = listener.accept().await {
                    let service = service.clone();
                    tokio::spawn(
                        async move { Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await.map_err(drop) },
                    );
                }
            });
        });
        Ok(Self { address, folder, asked })
    }

    /// The variables of the environment that lead to it.
    #[must_use]
    pub fn variables(&self) -> [(&'static str, String); 3] {
        [
            ("AWS_ENDPOINT_URL_S3", format!("http://{}", self.address)),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
        ]
    }

    /// The variable that makes Google's tools ask it, whose interface with XML is S3's as far as reading goes.
    #[must_use]
    pub fn of_google(&self) -> [(&'static str, String); 1] {
        [("STORAGE_EMULATOR_HOST", format!("http://{}", self.address))]
    }

    /// The folder with a folder for each bucket.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Put all files of a folder below `place`, a bucket and a prefix.
    ///
    /// # Errors
    /// They cannot be copied.
    pub fn put(&self, from: &Path, place: &str) -> Result<()> {
        let mut left: Vec<(PathBuf, PathBuf)> = vec![(from.to_owned(), self.folder().join(place))];
        while let Some((from, to)) = left.pop() {
            std::fs::create_dir_all(&to)?;
            for entry in std::fs::read_dir(&from).with_context(|| from.display().to_string())? {
                let entry = entry?;
                let target = to.join(entry.file_name());
                if entry.path().is_dir() {
                    left.push((entry.path(), target));
                } else {
                    std::fs::copy(entry.path(), target)?;
                }
            }
        }
        Ok(())
    }

    /// What has been asked for since this was last called: operation and path, in the order of time.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The bucket that everybody may read.
pub const PUBLIC: &str = "public";

/// Lets in whoever has signed, and others to the public bucket; writes down what is asked.
struct Witness(Arc<Mutex<Vec<String>>>);

#[async_trait::async_trait]
impl S3Access for Witness {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let line = format!("{} {}", context.s3_op().name(), context.uri().path());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        let open = context.uri().path().trim_start_matches('/').split('/').next() == Some(PUBLIC);
        if open || context.credentials().is_some() { Ok(()) } else { Err(s3_error!(AccessDenied, "a signature is needed")) }
    }
}
