//! Asks an instance.
//!
//! Owns: one question and its answer, each bounded. Refuses: an answer of another version. Driven by: `fourfold show` and whoever
//! else asks.

use crate::place::{self, Place};
use crate::server::VERSION_HEADER;
use fourfold_api::{Problem, VERSIONS_PATH, Versions, v1};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// A question and its answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// 10 000 servers with 64 sources each fill less.
const ANSWER_BYTES_MAX: usize = 256 << 20;

#[derive(Debug)]
pub enum AskError {
    /// No instance runs that this user could ask.
    Nobody {
        forbidden: Vec<PathBuf>,
    },
    /// More than one does.
    Several(Vec<PathBuf>),
    Connect {
        place: Place,
        error: io::Error,
    },
    Broken {
        place: Place,
        why: String,
    },
    /// It speaks other versions.
    Version {
        place: Place,
        versions: Option<Versions>,
    },
    Refused(Problem),
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |paths: &[PathBuf]| {
            paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
        };
        match self {
            AskError::Nobody { forbidden } if forbidden.is_empty() => f.write_str(
                "no running instance was found; name it with --admin, or start one with `fourfold run`",
            ),
            AskError::Nobody { forbidden } => {
                write!(
                    f,
                    "only the owner may ask {}: run this as that user (sudo -u), or as root",
                    list(forbidden)
                )
            }
            AskError::Several(paths) => {
                write!(f, "{} instances run; choose one with --admin: {}", paths.len(), list(paths))
            }
            AskError::Connect { place, error } if error.kind() == ErrorKind::PermissionDenied => {
                write!(f, "only its owner may ask {place}: run this as that user (sudo -u), or as root")
            }
            AskError::Connect { place, error }
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
            {
                write!(f, "no instance answers at {place}: {error}")
            }
            AskError::Connect { place, error } => write!(f, "{place}: {error}"),
            AskError::Broken { place, why } => {
                write!(f, "{place} does not answer as an instance does: {why}")
            }
            AskError::Version { place, versions: Some(Versions { program, api }) } => write!(
                f,
                "the instance at {place} is fourfold {program} and speaks {}, this program speaks {}: use the program that runs",
                api.join(", "),
                v1::VERSION
            ),
            AskError::Version { place, versions: None } => {
                write!(f, "{place} does not speak the admin API: is it a Fourfold?")
            }
            AskError::Refused(problem) => write!(f, "{problem}"),
        }
    }
}

impl std::error::Error for AskError {}

/// The only instance there is.
pub fn the_instance() -> Result<Place, AskError> {
    let mut found = place::find();
    match (found.running.pop(), found.running.is_empty()) {
        (Some(only), true) => Ok(Place::Unix(only)),
        (Some(last), false) => {
            found.running.push(last);
            Err(AskError::Several(found.running))
        }
        (None, _) => Err(AskError::Nobody { forbidden: found.forbidden }),
    }
}

/// The answer as it came, and what it says.
pub async fn ask<T: DeserializeOwned>(
    place: &Place,
    path: &str,
    query: &impl Serialize,
) -> Result<(Bytes, T), AskError> {
    // Fields of a query are names and numbers, which can always be written.
    let query = serde_urlencoded::to_string(query).unwrap_or_default();
    let path = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    let (status, version, body) = get(place, &path).await?;
    let broken = |why: String| AskError::Broken { place: place.clone(), why };
    if version.as_deref() != Some(v1::VERSION) {
        return Err(AskError::Version { place: place.clone(), versions: versions(place).await });
    }
    if status != StatusCode::OK {
        let problem = serde_json::from_slice(&body);
        return Err(problem.map_or_else(|_| broken(format!("status {status}")), AskError::Refused));
    }
    let value = serde_json::from_slice(&body).map_err(|error| broken(error.to_string()))?;
    Ok((body, value))
}

async fn versions(place: &Place) -> Option<Versions> {
    let (_, _, body) = get(place, VERSIONS_PATH).await.ok()?;
    serde_json::from_slice(&body).ok()
}

type Got = (StatusCode, Option<String>, Bytes);

async fn get(place: &Place, path: &str) -> Result<Got, AskError> {
    let connect = |error| AskError::Connect { place: place.clone(), error };
    let late = || connect(io::Error::new(ErrorKind::TimedOut, "it does not answer in time"));
    let got = async {
        match place {
            Place::Unix(socket) => {
                let stream = tokio::net::UnixStream::connect(socket).await.map_err(connect)?;
                exchange(place, stream, path).await
            }
            Place::Tcp(address) => {
                let stream = tokio::net::TcpStream::connect(address).await.map_err(connect)?;
                exchange(place, stream, path).await
            }
        }
    };
    tokio::time::timeout(PATIENCE, got).await.map_err(|_| late())?
}

async fn exchange<S>(place: &Place, stream: S, path: &str) -> Result<Got, AskError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |why: String| AskError::Broken { place: place.clone(), why };
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(error.to_string()))?;
    let driver = tokio::spawn(connection);
    let host = match place {
        Place::Unix(_) => "localhost".to_owned(),
        Place::Tcp(address) => address.to_string(),
    };
    let request = Request::get(path).header(HOST, host).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| broken(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(|error| broken(error.to_string()))?;
    let status = response.status();
    let version =
        response.headers().get(VERSION_HEADER).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| broken(error.to_string()))?.to_bytes();
    driver.abort();
    Ok((status, version, body))
}
