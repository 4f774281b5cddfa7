//! The page that shows the API document to people: Swagger UI, from the archive of its release that a crate vendors, with
//! a start page of our own.
//!
//! The start page takes no document from its query, asks no validator on another host, and forbids scripts from anywhere
//! else: it has the origin of the ticket shop.

use std::borrow::Cow;
use std::io::{Cursor, Read as _};
use std::sync::LazyLock;

use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::web::{self, Bytes, Path};
use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;
use zip::ZipArchive;

use super::problem::{Problem, ProblemCode};

/// The path of the page.
pub(super) const PATH: &str = "/swagger-ui";
/// Swagger UI sets styles from its script.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const START_PAGE: &str = include_str!("swagger_ui/index.html");
const START_SCRIPT: &str = include_str!("swagger_ui/start.js");
/// The files that the start page loads from the archive.
const FROM_ARCHIVE: [(&str, &str); 4] = [
    ("swagger-ui.css", "text/css; charset=utf-8"),
    ("swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    ("favicon-16x16.png", "image/png"),
    ("favicon-32x32.png", "image/png"),
];

struct File {
    name: &'static str,
    content_type: &'static str,
    bytes: Bytes,
}

/// Unpacked at the first request.
static FILES: LazyLock<Vec<File>> = LazyLock::new(|| {
    let mut files = vec![
        File { name: "", content_type: "text/html; charset=utf-8", bytes: Bytes::from_static(START_PAGE.as_bytes()) },
        File {
            name: "start.js",
            content_type: "text/javascript; charset=utf-8",
            bytes: Bytes::from_static(START_SCRIPT.as_bytes()),
        },
    ];
    match unpack() {
        Ok(unpacked) => files.extend(unpacked),
        Err(error) => tracing::error!(%error, "the archive of Swagger UI cannot be read"),
    }
    files
});

fn unpack() -> Result<Vec<File>, zip::result::ZipError> {
    let mut archive = ZipArchive::new(Cursor::new(SWAGGER_UI_VENDORED))?;
    let unpack_one = |(name, content_type): (&'static str, &'static str)| {
        let end = format!("/dist/{name}");
        let path = archive.file_names().flatten().find(|path| path.ends_with(&end)).map(Cow::into_owned);
        let mut bytes = Vec::new();
        archive.by_name(&path.ok_or(zip::result::ZipError::FileNotFound)?)?.read_to_end(&mut bytes)?;
        Ok(File { name, content_type, bytes: bytes.into() })
    };
    FROM_ARCHIVE.into_iter().map(unpack_one).collect()
}

/// The routes of the page.
pub(super) fn pages(config: &mut web::ServiceConfig) {
    config
        .service(web::redirect(PATH, format!("{PATH}/")))
        .service(web::resource(format!("{PATH}/{{file:.*}}")).route(web::get().to(file)));
}

async fn file(name: Path<String>) -> Result<HttpResponse, Problem> {
    let name = if *name == "index.html" { "" } else { name.as_str() };
    let found = FILES.iter().find(|file| file.name == name).ok_or_else(|| Problem::of(ProblemCode::NotFound))?;
    Ok(HttpResponse::Ok()
        .content_type(found.content_type)
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .insert_header((header::CACHE_CONTROL, "public, max-age=3600"))
        .body(found.bytes.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_has_every_file_that_the_start_page_loads() {
        assert_eq!(unpack().unwrap().len(), FROM_ARCHIVE.len());
        let loaded = START_PAGE.split('"').filter_map(|text| text.strip_prefix("./"));
        let loaded: Vec<_> = loaded.collect();

        assert!(loaded.len() >= 5, "{loaded:?}");
        for name in loaded {
            assert!(FILES.iter().any(|file| file.name == name && !file.bytes.is_empty()), "{name}");
        }
    }
}
