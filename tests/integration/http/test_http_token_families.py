"""Revoking a token ends what was made with it: a right that was withdrawn leaves no copy behind."""

from tests.fakes.http_world import Browser, HttpWorld

TOKENS = "/api/v1/tokens"


async def made_by(maker: Browser, name: str) -> tuple[str, Browser]:
    """A token that `maker` makes, and a program that has it."""
    scopes = ["admin", "read", "sessions"]
    answer = await maker.post(TOKENS, {"name": name, "scopes": scopes})
    assert answer.status == 201, answer.raw
    program = Browser(
        maker.world, maker.client, {"Authorization": f"Bearer {answer.body['token']}"}, maker.user
    )
    return str(answer.body["id"]), program


async def test_the_tokens_that_a_revoked_token_made_end_with_it(world: HttpWorld) -> None:
    """Children and their children; neither a sister nor what the account made by itself."""
    ada = await world.signed_in("ada", "administrator")
    root_id, root = await made_by(ada, "root")
    _, child = await made_by(root, "child")
    _, grandchild = await made_by(child, "grandchild")
    _, sister = await made_by(ada, "sister")
    for program in (root, child, grandchild, sister):
        assert (await program.get("/api/v1/me")).status == 200
    assert (await ada.ask("DELETE", f"{TOKENS}/{root_id}")).status == 204
    statuses = [(await program.get("/api/v1/me")).status for program in (root, child, grandchild, sister)]
    assert statuses == [401, 401, 401, 200]
    revoked = [
        record.entry.kind
        for record in await world.registry.audit(limit=500)
        if record.entry.kind == "token.revoked"
    ]
    assert len(revoked) == 3
