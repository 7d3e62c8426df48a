"""What is dirty, without a kernel: events in, folders out."""

from storage.watch.dirt import DIRTY_FOLDERS_MAX, Atlas, HomeDirt, Why


def known(atlas: Atlas, **folders: int) -> HomeDirt:
    home = HomeDirt()
    home.lost = None
    for path, key in folders.items():
        atlas.enter(home, path.replace("__", "/").encode() if path != "root" else b"", key)
    return home


def test_a_home_begins_lost():
    assert HomeDirt().lost is Why.START


def test_a_change_in_an_unknown_folder_is_nobodys():
    atlas = Atlas()
    home = known(atlas, root=1)
    atlas.touched(2)
    assert home.take() == frozenset()


def test_what_is_taken_is_clean_until_it_is_given_back():
    atlas = Atlas()
    home = known(atlas, root=1, a=2)
    atlas.touched(2)
    taken = home.take()
    assert taken == {b"a"}
    assert home.take() == frozenset()
    home.give_back(taken)
    assert home.take() == {b"a"}


def test_what_is_given_back_to_a_lost_home_is_not_relied_on():
    atlas = Atlas()
    home = known(atlas, root=1)
    home.lose(Why.OVERFLOW)
    home.give_back([b""])
    assert not home.dirty


def test_a_folder_under_two_paths_loses_the_home():
    """Events say which folder, not which path; a bind mount shows one in two places."""
    atlas = Atlas()
    home = known(atlas, root=1, a=2)
    assert not atlas.enter(home, b"b", 2)
    assert home.lost is Why.TWO_PLACES


def test_a_folder_of_a_lost_home_may_be_met_in_another_one():
    """It was moved there; the first home is scanned in full anyway."""
    atlas = Atlas()
    first = known(atlas, root=1, a=2)
    second = known(atlas, root=3)
    first.lose(Why.FOLDER_MOVED)
    atlas.enter(second, b"a", 2)
    assert second.lost is None
    atlas.touched(2)
    assert second.take() == {b"a"}
    assert b"a" not in first.keys


def test_a_removed_folder_makes_the_one_it_lay_in_dirty():
    atlas = Atlas()
    home = known(atlas, root=1, a=2, a__b=3)
    atlas.gone(3)
    assert home.take() == {b"a"}
    assert 3 not in atlas


def test_a_removed_home_is_lost():
    atlas = Atlas()
    home = known(atlas, root=1)
    atlas.gone(1)
    assert home.lost is Why.HOME_REPLACED


def test_an_overflow_loses_all_homes():
    atlas = Atlas()
    homes = [known(atlas, root=number) for number in (1, 2)]
    atlas.all_lost(Why.OVERFLOW)
    assert [home.lost for home in homes] == [Why.OVERFLOW] * 2


def test_the_first_reason_stays():
    home = HomeDirt()
    home.lose(Why.OVERFLOW)
    assert home.lost is Why.START


def test_more_dirty_folders_than_can_be_worth_it_are_a_full_scan():
    atlas = Atlas()
    home = known(atlas, root=0)
    for number in range(1, DIRTY_FOLDERS_MAX + 2):
        atlas.enter(home, b"%d" % number, number)
        atlas.touched(number)
    assert home.lost is Why.MANY
    assert not home.dirty
