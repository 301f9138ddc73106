//! Keys of `[[listener.route]]` and of its tables.

use super::*;
use crate::form;

const HOSTS_MAX: usize = 256;
const METHODS_MAX: usize = 32;
const CONDITIONS_MAX: usize = 16;
const SPLITS_MAX: usize = 16;
const FIELDS_MAX: usize = 64;

section! { route {
    NAME = "name",
        Kind::Name,
        Default::Derived("`route-1`, `route-2`, …"), "0.1",
        "Unique in its listener; appears in logs and counters.";
    HOST = "host",
        Kind::Texts { form: &form::HOST_PATTERN, max: HOSTS_MAX },
        Default::Derived("any"), "0.1",
        "`example.com`, or `*.example.com` for every name below it, or a list of them; the port does not count.";
    PATH = "path",
        Kind::Text(&form::PATH_PATTERN),
        Default::Derived("any"), "0.1",
        "One that ends in `/` (or `/*`) stands for everything below: `/v1/` takes `/v1/users`, not `/v1`. Any other \
         is exact.";
    PATH_PREFIX = "path_prefix",
        Kind::Text(&form::PATH),
        Default::Derived("any"), "0.1",
        "This path and everything below: `/v1` takes `/v1` and `/v1/users`, not `/v10`.";
    PATH_EXACT = "path_exact",
        Kind::Text(&form::PATH),
        Default::Derived("any"), "0.1",
        "This path and no other, also when it ends in `/`.";
    PATH_REGEX = "path_regex",
        Kind::Later,
        Default::Derived("none"), "",
        "Paths by a regular expression.";
    METHOD = "method",
        Kind::Texts { form: &form::METHOD, max: METHODS_MAX },
        Default::Derived("any"), "0.1",
        "`GET`, or a list of methods.";
    HEADER = "header",
        Kind::Tables { section: Section::Header, max: CONDITIONS_MAX },
        Default::Derived("any"), "0.1",
        "Conditions on request headers; all must hold.";
    QUERY = "query",
        Kind::Tables { section: Section::Query, max: CONDITIONS_MAX },
        Default::Derived("any"), "0.1",
        "Conditions on query parameters; all must hold.";
    POOL = "pool",
        Kind::PoolName,
        Default::Derived("the listener's, if none of the next three is there"), "0.1",
        "Where these requests go.";
    SPLIT = "split",
        Kind::Tables { section: Section::Split, max: SPLITS_MAX },
        Default::Derived("none"), "0.1",
        "Several pools by weight, for a canary.";
    REDIRECT = "redirect",
        Kind::Table(Section::Redirect),
        Default::Derived("none"), "0.1",
        "The client is sent elsewhere.";
    RESPOND = "respond",
        Kind::Table(Section::Respond),
        Default::Derived("none"), "0.1",
        "A fixed response.";
    REWRITE = "rewrite",
        Kind::Table(Section::Rewrite),
        Default::Derived("none"), "0.1",
        "Servers see another path or host.";
    REQUEST_HEADERS = "request_headers",
        Kind::Table(Section::RequestHeaders),
        Default::Derived("none"), "0.1",
        "Changes to the headers that servers see.";
    RESPONSE_HEADERS = "response_headers",
        Kind::Table(Section::ResponseHeaders),
        Default::Derived("none"), "0.1",
        "Changes to the headers that clients see.";
    MIRROR = "mirror",
        Kind::Table(Section::Mirror),
        Default::Derived("none"), "0.1",
        "Copies of requests go to another pool, whose responses are thrown away.";
    RESPONSE_TIMEOUT = "response_timeout",
        duration(1),
        Default::Derived("the pool's"), "0.1",
        "See the pool's.";
    RESPONSE_IDLE_TIMEOUT = "response_idle_timeout",
        duration(1),
        Default::Derived("the pool's"), "0.1",
        "See the pool's.";
    UPGRADE_TIMEOUT = "upgrade_timeout",
        duration(0),
        Default::Derived("the listener's"), "0.1",
        "See the listener's.";
    BODY_BYTES_MAX = "body_bytes_max",
        bytes(0, 1 << 62),
        Default::Derived("the listener's"), "0.1",
        "See the listener's.";
    RETRIES = "retries",
        Kind::Count { min: 0, max: 10, unit: "tries" },
        Default::Derived("the pool's"), "0.1",
        "See the pool's.";
    RETRY_ON = "retry_on",
        Kind::Texts { form: &form::RETRY_ON, max: 6 },
        Default::Derived("the pool's"), "0.1",
        "See the pool's.";
} }

section! { header {
    NAME = "name",
        Kind::Text(&form::HEADER_NAME),
        Default::Required, "0.1",
        "Which header; upper and lower case are the same.";
    EXACT = "exact",
        Kind::Text(&form::FIELD_VALUE),
        Default::Derived("any value, as long as the header is there"), "0.1",
        "Its whole value.";
    PREFIX = "prefix",
        Kind::Text(&form::FIELD_VALUE),
        Default::Derived("any value, as long as the header is there"), "0.1",
        "What its value begins with.";
    ABSENT = "absent",
        Kind::Bool,
        Default::Text("false"), "0.1",
        "It must not be there.";
    REGEX = "regex",
        Kind::Later,
        Default::Derived("none"), "",
        "Values by a regular expression.";
} }

section! { query {
    NAME = "name",
        Kind::Text(&form::QUERY_NAME),
        Default::Required, "0.1",
        "Which parameter, decoded.";
    EXACT = "exact",
        Kind::Text(&form::QUERY_VALUE),
        Default::Derived("any value, as long as the parameter is there"), "0.1",
        "Its whole value, decoded.";
    PREFIX = "prefix",
        Kind::Text(&form::QUERY_VALUE),
        Default::Derived("any value, as long as the parameter is there"), "0.1",
        "What its value begins with.";
    ABSENT = "absent",
        Kind::Bool,
        Default::Text("false"), "0.1",
        "It must not be there.";
    REGEX = "regex",
        Kind::Later,
        Default::Derived("none"), "",
        "Values by a regular expression.";
} }

section! { split {
    POOL = "pool",
        Kind::PoolName,
        Default::Required, "0.1",
        "One of the pools.";
    WEIGHT = "weight",
        Kind::Count { min: 0, max: 65_535, unit: "shares" },
        Default::Required, "0.1",
        "Its share of the requests relative to the others. `0`: none.";
} }

section! { redirect {
    STATUS = "status",
        Kind::Count { min: 301, max: 308, unit: "as a status" },
        Default::Text("308"), "0.1",
        "308 and 301 are remembered by browsers, 307 and 302 are not; 303 turns a POST into a GET.";
    TO = "to",
        Kind::Text(&form::LOCATION),
        Default::Required, "0.1",
        "A template for the Location header: `https://{host}{uri}`.";
} }

section! { respond {
    STATUS = "status",
        Kind::Count { min: 200, max: 599, unit: "as a status" },
        Default::Text("200"), "0.1",
        "The response's status.";
    BODY = "body",
        Kind::Text(&form::BODY),
        Default::Derived("empty"), "0.1",
        "The response's body.";
    FILE = "file",
        Kind::Text(&form::FILE),
        Default::Derived("none"), "0.1",
        "The body from a file, read at start; at most 64 KiB. Relative to the configuration's folder.";
    CONTENT_TYPE = "content_type",
        Kind::Text(&form::FIELD_VALUE),
        Default::Derived("by the file's ending, else `text/plain; charset=utf-8`"), "0.1",
        "What it is.";
} }

section! { rewrite {
    PREFIX = "prefix",
        Kind::Text(&form::PATH),
        Default::Derived("none"), "0.1",
        "Stands in for the prefix that the route matched; what follows it stays.";
    PATH = "path",
        Kind::Text(&form::PATH),
        Default::Derived("none"), "0.1",
        "Stands in for the whole path; the query stays.";
    HOST = "host",
        Kind::Text(&form::AUTHORITY),
        Default::Derived("what the client asked for"), "0.1",
        "The Host header that servers see.";
} }

section! { request_headers {
    REMOVE = "remove",
        Kind::Texts { form: &form::CHANGED_NAME, max: FIELDS_MAX },
        Default::Derived("none"), "0.1",
        "Headers that are taken out, before any is set or added.";
    SET = "set",
        Kind::Pairs { name: &form::CHANGED_NAME, value: &form::TEMPLATE },
        Default::Derived("none"), "0.1",
        "Headers that are there once with this value: `set = { x-client = \"{client_ip}\" }`.";
    ADD = "add",
        Kind::Pairs { name: &form::CHANGED_NAME, value: &form::TEMPLATE },
        Default::Derived("none"), "0.1",
        "Headers that are added to those of the same name.";
} }

section! { response_headers {
    REMOVE = "remove",
        Kind::Texts { form: &form::CHANGED_NAME, max: FIELDS_MAX },
        Default::Derived("none"), "0.1",
        "Headers that are taken out, before any is set or added.";
    SET = "set",
        Kind::Pairs { name: &form::CHANGED_NAME, value: &form::TEMPLATE },
        Default::Derived("none"), "0.1",
        "Headers that are there once with this value.";
    ADD = "add",
        Kind::Pairs { name: &form::CHANGED_NAME, value: &form::TEMPLATE },
        Default::Derived("none"), "0.1",
        "Headers that are added to those of the same name.";
} }

section! { mirror {
    POOL = "pool",
        Kind::PoolName,
        Default::Required, "0.1",
        "Where the copies go.";
    PERCENT = "percent",
        Kind::Percent { min: 1, max: 100 },
        Default::Text("100%"), "0.1",
        "Share of the requests that are copied.";
} }
