//! Who calls whom in the shop, how long it takes, and what can go wrong.

/// How an operation is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    Http,
    Grpc,
    /// Only the caller reports a span.
    Database,
    /// Only the caller reports a span.
    ThirdParty,
    Queue,
    /// A function of the caller.
    Internal,
}

/// Something that a service does.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) service: &'static str,
    pub(super) name: &'static str,
    pub(super) via: Via,
    /// Path, method, statement or topic.
    pub(super) detail: &'static str,
    /// Own time, calls excluded.
    pub(super) median_us: u64,
    pub(super) failure_rate: f64,
    /// Class and message of what goes wrong.
    pub(super) failure: (&'static str, &'static str),
    pub(super) calls: &'static [Call],
}

/// A call that an operation makes.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) to: &'static Operation,
    pub(super) probability: f64,
    /// Whether the next call begins before this one ends.
    pub(super) parallel: bool,
}

const fn always(to: &'static Operation) -> Call {
    Call { to, probability: 1.0, parallel: false }
}

const fn sometimes(to: &'static Operation, probability: f64) -> Call {
    Call { to, probability, parallel: false }
}

const fn beside(to: &'static Operation, probability: f64) -> Call {
    Call { to, probability, parallel: true }
}

const TIMEOUT: (&str, &str) =
    ("java.net.SocketTimeoutException", "Read timed out after 2000 ms waiting for the response");

const fn database(
    service: &'static str,
    name: &'static str,
    detail: &'static str,
    median_us: u64,
) -> Operation {
    Operation {
        service,
        name,
        via: Via::Database,
        detail,
        median_us,
        failure_rate: 0.001,
        failure: (
            "java.sql.SQLTransientConnectionException",
            "HikariPool-1 - Connection is not available, request timed out",
        ),
        calls: &[],
    }
}

const fn operation(
    service: &'static str,
    name: &'static str,
    via: Via,
    detail: &'static str,
    median_us: u64,
    calls: &'static [Call],
) -> Operation {
    Operation { service, name, via, detail, median_us, failure_rate: 0.002, failure: TIMEOUT, calls }
}

static SESSION: Operation = database("redis", "GET session", "GET session:{id}", 350);
static USER_ROW: Operation =
    database("postgres", "SELECT users", "SELECT id, email, locale, tier FROM users WHERE id = $1", 1_400);
static PRODUCT_ROWS: Operation = database(
    "postgres",
    "SELECT products",
    "SELECT p.*, array_agg(i.url) FROM products p LEFT JOIN images i ON i.product_id = p.id WHERE p.id = ANY($1) GROUP BY p.id",
    3_200,
);
static PRODUCT_CACHE: Operation = database("redis", "MGET product", "MGET product:{ids}", 500);
static CART_READ: Operation = database("redis", "HGETALL cart", "HGETALL cart:{user}", 420);
static CART_WRITE: Operation = database("redis", "HSET cart", "HSET cart:{user} {sku} {quantity}", 480);
static STOCK_ROWS: Operation = database(
    "mysql",
    "SELECT stock",
    "SELECT sku, warehouse, available FROM stock WHERE sku IN (?, ?, ?) FOR UPDATE",
    2_600,
);
static STOCK_UPDATE: Operation = database(
    "mysql",
    "UPDATE stock",
    "UPDATE stock SET available = available - ? WHERE sku = ? AND available >= ?",
    3_900,
);
static ORDER_INSERT: Operation = database(
    "postgres",
    "INSERT orders",
    "INSERT INTO orders (id, user_id, total_cents, currency, state) VALUES ($1, $2, $3, $4, 'PLACED')",
    5_200,
);

static LOAD_PROFILE: Operation = operation(
    "users",
    "users.UserService/GetProfile",
    Via::Grpc,
    "GetProfile",
    900,
    &[always(&SESSION), sometimes(&USER_ROW, 0.5)],
);
static VERIFY: Operation = Operation {
    failure_rate: 0.004,
    failure: ("io.jsonwebtoken.ExpiredJwtException", "JWT expired 342 seconds ago at 2026-03-01T10:14:02Z"),
    ..operation(
        "auth",
        "auth.TokenService/Verify",
        Via::Grpc,
        "Verify",
        700,
        &[always(&SESSION), sometimes(&LOAD_PROFILE, 0.3)],
    )
};
static RULES: Operation = operation("pricing", "evaluate discount rules", Via::Internal, "rules", 1_300, &[]);
static PRICE: Operation = Operation {
    failure_rate: 0.003,
    failure: ("ArithmeticException", "discount of 112 percent for campaign SPRING-26 is out of range"),
    ..operation("pricing", "POST /prices/quote", Via::Http, "/prices/quote", 1_900, &[always(&RULES)])
};
static AVAILABLE: Operation = operation(
    "inventory",
    "inventory.StockService/Available",
    Via::Grpc,
    "Available",
    1_100,
    &[always(&STOCK_ROWS)],
);
static RESERVE: Operation = Operation {
    failure_rate: 0.012,
    failure: ("com.shop.inventory.OutOfStockException", "sku 84-2213-XL: requested 2, available 0"),
    ..operation(
        "inventory",
        "inventory.StockService/Reserve",
        Via::Grpc,
        "Reserve",
        1_700,
        &[always(&STOCK_ROWS), always(&STOCK_UPDATE)],
    )
};
static RECOMMEND: Operation = operation(
    "recommendation",
    "recommendation.Recommender/ForUser",
    Via::Grpc,
    "ForUser",
    9_000,
    &[sometimes(&PRODUCT_CACHE, 0.9)],
);
static PRODUCTS: Operation = operation(
    "catalog",
    "GET /products",
    Via::Http,
    "/products?ids=84-2213,17-0042,55-9120",
    2_400,
    &[always(&PRODUCT_CACHE), sometimes(&PRODUCT_ROWS, 0.35)],
);
static SEARCH: Operation = Operation {
    failure_rate: 0.005,
    failure: ("elastic_transport.ConnectionTimeout", "Connection timed out after 1.5s [shard catalog_v7/3]"),
    ..operation(
        "search",
        "GET /search",
        Via::Http,
        "/search?q=rain+jacket&size=24&sort=relevance",
        14_000,
        &[beside(&PRODUCTS, 1.0), beside(&PRICE, 0.6)],
    )
};
static CART_VIEW: Operation = operation(
    "cart",
    "GET /cart",
    Via::Http,
    "/cart",
    1_500,
    &[always(&CART_READ), beside(&PRODUCTS, 0.8), beside(&PRICE, 0.8), beside(&AVAILABLE, 0.6)],
);
static CART_ADD: Operation = operation(
    "cart",
    "POST /cart/items",
    Via::Http,
    "/cart/items",
    1_800,
    &[always(&AVAILABLE), always(&CART_WRITE), sometimes(&PRICE, 0.9)],
);
static BANK: Operation = Operation {
    failure_rate: 0.02,
    failure: (
        "com.shop.payment.CardDeclinedException",
        "issuer declined: insufficient_funds (code 51, advice do_not_retry)",
    ),
    ..operation("bank-api", "POST /v3/authorizations", Via::ThirdParty, "/v3/authorizations", 180_000, &[])
};
static FRAUD: Operation =
    operation("payment", "score transaction", Via::Internal, "model fraud-2026-02", 6_500, &[]);
static CHARGE: Operation = operation(
    "payment",
    "payment.PaymentService/Charge",
    Via::Grpc,
    "Charge",
    2_900,
    &[always(&FRAUD), always(&BANK)],
);
static CARRIER: Operation = Operation {
    failure_rate: 0.015,
    failure: ("requests.exceptions.HTTPError", "503 Server Error: Service Unavailable for url: /rates"),
    ..operation("carrier-api", "GET /rates", Via::ThirdParty, "/rates?zip=10115&grams=1240", 95_000, &[])
};
static SHIPPING_QUOTE: Operation =
    operation("shipping", "POST /quotes", Via::Http, "/quotes", 2_200, &[always(&CARRIER)]);
static MAIL: Operation = operation("mail-api", "POST /messages", Via::ThirdParty, "/messages", 120_000, &[]);
static CONFIRM: Operation = operation(
    "notification",
    "order-placed process",
    Via::Queue,
    "order-placed",
    3_500,
    &[sometimes(&LOAD_PROFILE, 0.8), always(&MAIL)],
);
static DISPATCH: Operation = operation(
    "shipping",
    "order-placed process",
    Via::Queue,
    "order-placed",
    5_000,
    &[always(&STOCK_UPDATE)],
);
static PLACE_ORDER: Operation = operation(
    "order",
    "POST /orders",
    Via::Http,
    "/orders",
    4_200,
    &[
        always(&CART_READ),
        always(&RESERVE),
        always(&PRICE),
        beside(&SHIPPING_QUOTE, 0.7),
        always(&CHARGE),
        always(&ORDER_INSERT),
        sometimes(&CONFIRM, 0.95),
        sometimes(&DISPATCH, 0.95),
    ],
);

static VISIT_HOME: Operation = operation(
    "gateway",
    "GET /",
    Via::Http,
    "/",
    1_200,
    &[beside(&VERIFY, 0.6), beside(&PRODUCTS, 1.0), beside(&RECOMMEND, 0.8)],
);
static VISIT_SEARCH: Operation = operation(
    "gateway",
    "GET /search",
    Via::Http,
    "/search?q=rain+jacket",
    1_100,
    &[beside(&VERIFY, 0.5), always(&SEARCH)],
);
static VISIT_PRODUCT: Operation = operation(
    "gateway",
    "GET /products/{sku}",
    Via::Http,
    "/products/84-2213",
    1_000,
    &[
        beside(&VERIFY, 0.5),
        beside(&PRODUCTS, 1.0),
        beside(&AVAILABLE, 0.9),
        beside(&PRICE, 0.9),
        beside(&RECOMMEND, 0.7),
    ],
);
static VISIT_CART: Operation =
    operation("gateway", "GET /cart", Via::Http, "/cart", 1_000, &[always(&VERIFY), always(&CART_VIEW)]);
static ADD_TO_CART: Operation = operation(
    "gateway",
    "POST /cart/items",
    Via::Http,
    "/cart/items",
    1_000,
    &[always(&VERIFY), always(&CART_ADD)],
);
static CHECKOUT: Operation = operation(
    "gateway",
    "POST /checkout",
    Via::Http,
    "/checkout",
    1_600,
    &[always(&VERIFY), always(&CART_VIEW), always(&PLACE_ORDER)],
);

/// What customers do, and how often.
pub(super) static ENTRIES: &[(u32, &Operation)] = &[
    (30, &VISIT_HOME),
    (25, &VISIT_SEARCH),
    (25, &VISIT_PRODUCT),
    (8, &VISIT_CART),
    (8, &ADD_TO_CART),
    (4, &CHECKOUT),
];
