//! Sign-up, log-in, and the caller's own account.

use serde_json::{Value, json};
use usher_account::Role;
use usher_kernel::AccountId;

use crate::app::{SaleOptions, TestApp, assert_problem, eventually, header, json_of, section};

const ME: &str = "/api/v1/members/me";

fn fields(problem: &Value) -> Vec<&str> {
    problem["errors"].as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_signs_up_can_log_in_and_is_known() {
    let app = TestApp::start().await;

    let signed_up = json_of(app.sign_up("Minji@Example.com", "correct horse").await, 201).await;
    let logged_in = app.log_in("minji@example.com", "correct horse").await;

    assert_eq!((&signed_up["email"], &signed_up["name"]), (&json!("minji@example.com"), &json!("Kim Minji")));
    assert_eq!(signed_up.as_object().unwrap().len(), 3, "an id, and nothing of the password: {signed_up}");
    assert_eq!(header(&logged_in, "cache-control"), Some("no-store"));
    let token = json_of(logged_in, 200).await;
    assert_eq!((&token["token_type"], &token["expires_in_s"]), (&json!("Bearer"), &json!(86_400)));
    let me = app.get(ME).bearer_auth(token["access_token"].as_str().unwrap()).send().await.unwrap();
    let expected = json!({"id": signed_up["id"], "email": "minji@example.com", "name": "Kim Minji", "role": "buyer"});
    assert_eq!(json_of(me, 200).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_address_is_one_account_however_it_is_written() {
    let app = TestApp::start().await;
    json_of(app.sign_up("minji@example.com", "correct horse").await, 201).await;

    for same in ["minji@example.com", "MINJI@example.COM", " minji@example.com "] {
        assert_problem(app.sign_up(same, "another password").await, 409, "email-taken").await;
    }
    assert_problem(app.log_in("minji@example.com", "another password").await, 401, "invalid-credentials").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_want_one_mail_address_one_gets_it() {
    let app = TestApp::start().await;

    let wishes = (0..8).map(|_| app.sign_up("minji@example.com", "correct horse"));
    let answers = futures_util::future::join_all(wishes).await;

    let mut made = 0;
    for answer in answers {
        if answer.status() == 201 {
            made += 1;
        } else {
            assert_problem(answer, 409, "email-taken").await;
        }
    }
    assert_eq!(made, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_log_in_does_not_tell_whether_there_is_an_account() {
    let app = TestApp::start().await;
    json_of(app.sign_up("minji@example.com", "correct horse").await, 201).await;

    let wrong_password =
        assert_problem(app.log_in("minji@example.com", "wrong horse").await, 401, "invalid-credentials").await;
    let no_account =
        assert_problem(app.log_in("nobody@example.com", "wrong horse").await, 401, "invalid-credentials").await;
    let no_address = assert_problem(app.log_in("nobody", "wrong horse").await, 401, "invalid-credentials").await;

    assert_eq!(wrong_password, no_account);
    assert_eq!(wrong_password, no_address);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_field_of_a_sign_up_is_named() {
    let app = TestApp::start().await;
    let body = json!({"email": "nobody", "password": "7 chars", "name": " "});

    let refused = app.post("/api/v1/auth/signup").json(&body).send().await.unwrap();

    let problem = assert_problem(refused, 400, "validation-failed").await;
    let mut named = fields(&problem);
    named.sort_unstable();
    assert_eq!(named, ["email", "name", "password"]);
    assert!(!problem.to_string().contains("7 chars"), "a password is not repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_8_to_128_characters_long() {
    let app = TestApp::start().await;

    for (n, password) in ["x".repeat(7), "x".repeat(129)].iter().enumerate() {
        let refused =
            assert_problem(app.sign_up(&format!("no{n}@example.com"), password).await, 400, "validation-failed").await;
        assert_eq!(fields(&refused), ["password"]);
    }
    for (n, password) in ["x".repeat(8), "ü".repeat(128)].iter().enumerate() {
        json_of(app.sign_up(&format!("yes{n}@example.com"), password).await, 201).await;
    }
}

/// L14, L20: the account and its role come from the signed token, and from nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_believed_without_a_signature() {
    let app = TestApp::start().await;
    let stranger = TestApp::start().await;
    let token = app.sign_up_and_log_in("minji@example.com").await;
    let [head, claims, signature] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
    let of_another_server = stranger.operator();
    let other_claims = of_another_server.split('.').nth(1).unwrap();
    // {"alg":"none","typ":"JWT"}
    let unsigned_head = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";

    for forged in [
        "Bearer ".to_owned(),
        "Bearer nonsense".to_owned(),
        format!("Bearer {of_another_server}"),
        format!("Bearer {head}.{other_claims}.{signature}"),
        format!("Bearer {unsigned_head}.{claims}."),
        format!("Bearer {head}.{claims}."),
        format!("Basic {token}"),
        token.clone(),
    ] {
        let refused = app.get(ME).header("Authorization", &forged).send().await.unwrap();
        assert_problem(refused, 401, "unauthenticated").await;
    }
    let by_query = app.get(&format!("{ME}?access_token={token}")).send().await.unwrap();
    assert_problem(by_query, 401, "unauthenticated").await;
    json_of(app.get(ME).header("Authorization", format!("bearer {token}")).send().await.unwrap(), 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_is_good_for_its_time() {
    let app = TestApp::start_with(|settings| settings.auth.token_ttl_s = 2).await;
    let token = app.sign_up_and_log_in("minji@example.com").await;

    json_of(app.get(ME).bearer_auth(&token).send().await.unwrap(), 200).await;
    let refused = eventually("the token expires", async || {
        let response = app.get(ME).bearer_auth(&token).send().await.unwrap();
        (response.status() != 200).then_some(response)
    })
    .await;

    assert_problem(refused, 401, "unauthenticated").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_from_elsewhere_needs_no_account_here() {
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 1, 1, "R", 100)], SaleOptions::default()).await;
    let minted = app.token(AccountId::from_bytes([7; 16]), Role::Buyer);

    let me = app.get(ME).bearer_auth(&minted).send().await.unwrap();
    let buyer = app.admit(&minted, &performance).await;

    assert_problem(me, 404, "not-found").await;
    app.held(&buyer, &["A-1-1"]).await;
}
