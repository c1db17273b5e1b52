"""What people can send that is wrong, and which tests hold the words that they then read.

Imports and judgements only. Runs, models and accounts have tests of their own.
"""

from __future__ import annotations

import importlib

import pytest

TABLE = {
    "empty file, header only, blank lines": ["test_bad_input.test_a_bad_file_says_why"],
    "not UTF-8, UTF-16, NUL, lone surrogate; a BOM is taken off": [
        "test_bad_input.test_a_bad_row_says_where_and_why",
        "test_bad_input.test_a_bad_file_says_why",
        "test_exchange.test_bom_is_stripped_and_gzip_unpacked",
    ],
    "broken JSON, trailing comma, NaN, Infinity, a key twice": [
        "test_bad_input.test_a_bad_row_says_where_and_why",
        "test_bad_input.test_a_bad_file_says_why",
        "test_files.test_reading_an_array_goes_on_after_an_object_that_is_no_row",
    ],
    "10,000 deep, a huge line, a huge object in an array, 5,000 digits": [
        "test_bad_input.test_a_bad_row_says_where_and_why",
        "test_bad_input.test_a_line_over_the_limit_is_one_bad_row_and_the_next_is_read",
        "test_bad_input.test_a_bad_file_says_why",
        "test_bad_input.test_memory_stays_flat_whatever_the_line",
    ],
    "a column missing, both sides equal, an empty prompt": [
        "test_bad_input.test_a_bad_row_says_where_and_why",
        "test_formats.test_a_bad_set_of_completions_says_why",
        "test_formats.test_a_bad_unpaired_row_says_why",
    ],
    "a wrong type, another column, mixed schemas": [
        "test_bad_input.test_a_bad_row_says_where_and_why",
        "test_bad_input.test_rows_of_other_schemas_are_named_by_what_they_lack",
        "test_data_pages.test_columns_nobody_recognises_are_pointed_at_on_the_preview",
    ],
    "CSV: ragged, another delimiter, an open quote, a huge cell, an Excel file": [
        "test_bad_input.test_a_bad_row_says_where_and_why",
        "test_bad_input.test_a_bad_file_says_why",
        "test_files.test_a_bad_csv_cell_names_its_column",
    ],
    "Parquet: damaged, a nested or extension type, absurd row groups": [
        "test_parquet.test_a_damaged_file_is_refused",
        "test_parquet.test_types_that_are_no_data_of_ours_are_named",
        "test_parquet.test_an_extension_type_runs_nothing_and_is_refused",
        "test_parquet.test_sizes_in_the_footer_are_not_believed",
        "test_parquet.test_a_row_group_of_millions_of_rows_stops_at_the_limit",
    ],
    "an archive bomb; ZIP (nested, links, odd names, encrypted) and others are refused whole": [
        "test_archives.test_a_gzip_bomb_stops_at_the_limit_of_real_bytes",
        "test_archives.test_an_archive_is_refused_whatever_it_holds",
        "test_parquet.test_a_parquet_file_in_gzip_is_an_archive_in_an_archive",
    ],
    "the same file or rows again": [
        "test_data_pages.test_the_same_file_again_says_so",
        "test_import.test_the_same_file_again_changes_nothing",
        "test_import.test_rows_of_other_files_and_within_a_file_are_not_doubled",
    ],
    "import by URL: there is none": [
        "test_data_pages.test_no_file_and_unknown_choices_are_named",
        "test_import_running.test_the_command_fails_with_what_the_page_would_say",
    ],
    "roles in a wrong order, an unknown role": [
        "test_bad_input.test_a_bad_row_says_where_and_why",
        "test_open_assistant.test_a_bad_tree_says_why",
    ],
    "too long for the model: told by the run, which knows the model": [
        "core.test_run_failures.test_prompts_that_do_not_fit_fail_with_count_and_limit",
    ],
    "a file over the limit": [
        "test_data_pages.test_a_refused_upload_says_why",
        "test_import_running.test_a_file_over_the_limit_is_refused_while_it_comes",
    ],
    "more people than get accounts; a person judging twice": [
        "test_import_people.test_more_people_than_get_accounts_stop_the_file",
        "test_import_people.test_a_second_judgement_by_one_person_is_counted_as_left_out",
    ],
    "a judgement after the lease, of another's task, twice": [
        "test_judge_submit.test_submit_after_the_lease_is_kept_and_says_so",
        "test_judge.test_judge_another_persons_assignment_is_not_found",
        "test_judge_submit.test_submit_resent_is_one_judgement",
        "test_judge_submit.test_submit_from_two_tabs_is_one_judgement",
    ],
    "a judgement without a choice, with two, with an unknown key, off the scale": [
        "test_bad_judgements.test_a_judgement_that_cannot_be_meant_is_refused_and_kept",
        "test_kinds.test_a_rating_with_a_gap_or_off_the_scale_is_refused_and_kept",
        "test_kinds.test_a_ranking_with_a_gap_is_refused_and_kept",
    ],
    "a key used for another judgement, or over 128 characters": [
        "test_judge_submit.test_submit_same_key_other_answer_is_refused_in_words",
        "test_bad_judgements.test_a_key_over_128_characters_is_refused",
    ],
}  # fmt: skip


@pytest.mark.parametrize("line", TABLE)
def test_each_line_has_tests_that_exist(line: str) -> None:
    for name in TABLE[line]:
        module, test = name.rsplit(".", 1)
        if module == "test_parquet":
            pytest.importorskip("pyarrow")
        place = f"tests.{module}" if module.startswith("core.") else f"tests.feedback.{module}"
        assert callable(getattr(importlib.import_module(place), test, None)), name
