-- What data did each policy train on: source files with their hashes, rows kept, and everything dropped?
-- parameter: policy = any policies.name, of policies with which name; without it of each
WITH RECURSIVE ancestry AS (
    SELECT policy_id, 'policies' AS stage, policy_id AS fingerprint FROM policies WHERE $policy IS NULL OR name = $policy
    UNION
    SELECT a.policy_id, l.parent_stage, l.parent
    FROM ancestry a JOIN lineage l ON l.child = a.fingerprint AND l.child_stage = a.stage
), counted AS (
    SELECT stage, fingerprint, map_from_entries(list((name, value))) AS n FROM counts GROUP BY ALL
), left_out AS (
    -- of the pairs that training would read: those held out may overlap, too
    SELECT l.child AS policy_id, count(DISTINCT p.pair_id) AS contaminated_pairs
    FROM lineage l JOIN lineage d ON d.child_stage = l.child_stage AND d.child = l.child AND d.parent_stage = 'preferences'
    LEFT JOIN contamination c ON c.artifact = l.parent
    LEFT JOIN preferences p ON p.artifact = d.parent AND p.pair_id = c.pair_id AND p.split = 'train'
    WHERE l.child_stage = 'policies' AND l.parent_stage = 'contamination' GROUP BY ALL
)
SELECT p.name, p.method, p.seed, d.stage AS data, t.child IS NULL AS is_of_an_ancestor,
    coalesce(s.settings ->> '$.dataset', s.settings ->> '$.name', s.info ->> '$.source', d.info ->> '$.source') AS source,
    coalesce(s.settings ->> '$.sha256', s.settings ->> '$.commit', d.settings ->> '$.sha256') AS sha256_or_commit,
    coalesce(cs.n['rows_read'], cd.n['rows_read']) AS rows_read, coalesce(cs.n['pairs'], cd.n['demonstrations'], cd.n['pairs']) AS kept,
    coalesce(cs.n['rejected_rows'], cd.n['rejected_rows']) AS rejected_rows, cd.n['merged_duplicates'] AS duplicates_of_all_sources,
    CASE d.stage WHEN 'preferences' THEN coalesce((d.info ->> '$.validation_pairs')::BIGINT, 0)
        + coalesce((d.info ->> '$.test_pairs')::BIGINT, 0) END AS held_out_of_all_sources,
    CASE WHEN t.child IS NOT NULL THEN o.contaminated_pairs END AS contaminated_left_out,
    CASE WHEN t.child IS NOT NULL THEN coalesce(cp.n['pairs_too_long'], cp.n['demonstrations_too_long']) END AS too_long_left_out,
    CASE WHEN t.child IS NOT NULL THEN cp.n['pairs'] END AS pairs_trained_on, d.fingerprint AS data_id, p.policy_id
FROM ancestry a
JOIN policies p USING (policy_id)
JOIN artifacts d ON d.stage = a.stage AND d.fingerprint = a.fingerprint AND a.stage IN ('preferences', 'demonstrations')
LEFT JOIN lineage l ON l.child_stage = a.stage AND l.child = a.fingerprint AND l.parent_stage = 'sources'
LEFT JOIN artifacts s ON s.stage = 'sources' AND s.fingerprint = l.parent
LEFT JOIN counted cs ON cs.stage = 'sources' AND cs.fingerprint = l.parent
LEFT JOIN counted cd ON cd.stage = a.stage AND cd.fingerprint = a.fingerprint
LEFT JOIN counted cp ON cp.stage = 'policies' AND cp.fingerprint = a.policy_id
LEFT JOIN lineage t ON t.child_stage = 'policies' AND t.child = a.policy_id AND t.parent_stage = a.stage AND t.parent = a.fingerprint
LEFT JOIN left_out o USING (policy_id)
ORDER BY p.method, p.name, p.seed, p.policy_id, is_of_an_ancestor, data, data_id, l.parent_name
